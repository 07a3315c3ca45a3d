"""The endpoint's deployments bound into a Serve application."""

import os
from collections.abc import Mapping
from dataclasses import replace

import ray
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.serve.config import AutoscalingConfig

from netdiff_ray.config import ServeConfig
from netdiff_ray.distributed.cluster import reachable_resources
from netdiff_ray.distributed.serve.denoiser import Denoiser
from netdiff_ray.distributed.serve.endpoint import Endpoint, Replicas
from netdiff_ray.distributed.serve.repairer import Repairer
from netdiff_ray.errors import ConfigError

_HEALTH_PERIOD_S = 2.0


def build(args: Mapping[str, object]) -> serve.Application:
    """Build the application, for `import_path: netdiff_ray.distributed.serve:build` with `args:`.

    Args:
        args: fields of `ServeConfig`; Serve itself decides those of the connection (host, port,
            address).

    Raises:
        ConfigError: a field is unknown or has a wrong value.
    """
    try:
        config = TypeAdapter(ServeConfig).validate_python(dict(args))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"args: {where}: {first['msg']}") from None
    unknown = set(args) - set(ServeConfig.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"args: unknown: {', '.join(sorted(unknown))}")
    return application(config)


def application(config: ServeConfig) -> serve.Application:
    """Build the application of a configuration, for the cluster that Ray is connected to."""
    config = replace(
        config,
        adapters=tuple(_absolute(source) for source in config.adapters),
        base=os.path.abspath(config.base) if config.base and os.path.exists(config.base)
        else config.base,
        jobs_target=_absolute(config.jobs_target) if config.jobs_target else None,
    )  # fmt: skip
    gpus = config.gpus_per_denoiser
    if gpus is None:
        gpus = 1.0 if ray.is_initialized() and reachable_resources()["GPU"] else 0.0
    batch_size = config.draw.batch_size
    denoiser = Denoiser.options(
        ray_actor_options={"num_cpus": config.cpus_per_denoiser, "num_gpus": gpus},
        autoscaling_config=_scaling(config.denoisers, batch_size),
        max_ongoing_requests=4 * batch_size,
        health_check_period_s=_HEALTH_PERIOD_S,
    )
    repairer = Repairer.options(
        ray_actor_options={"num_cpus": config.cpus_per_repairer},
        autoscaling_config=_scaling(config.repairers, 2),
        max_ongoing_requests=4,
        health_check_period_s=_HEALTH_PERIOD_S,
    )
    # Answers that the ingress gives at once must not wait behind streams.
    endpoint = Endpoint.options(
        ray_actor_options={"num_cpus": 0}, max_ongoing_requests=config.limits.streams + 200,
        max_queued_requests=200, backpressure_config={"status_code": 429, "retry_after_s": 5},
        health_check_period_s=_HEALTH_PERIOD_S,
    )  # fmt: skip
    needs = {
        "Denoiser": Replicas(config.denoisers[0], config.cpus_per_denoiser, gpus),
        "Repairer": Replicas(config.repairers[0], config.cpus_per_repairer, 0.0),
    }
    return endpoint.bind(denoiser.bind(config, gpus), repairer.bind(), config, needs)


def _scaling(replicas: tuple[int, int], target_ongoing_requests: float) -> AutoscalingConfig:
    least, most = replicas
    return AutoscalingConfig(
        min_replicas=least, max_replicas=most, target_ongoing_requests=target_ongoing_requests,
        upscale_delay_s=10.0, downscale_delay_s=120.0,
    )  # fmt: skip


def _absolute(source: str) -> str:
    """Return a path that every working folder resolves alike; URIs as they are."""
    return source if "://" in source else os.path.abspath(source)
