"""A run that draws a pcap dataset, resolved from its configuration and its adapter."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata as distributions

from netdiff_ray.config import GenerateConfig
from netdiff_ray.config.content import content_of, run_identity
from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.config.generate import lora_text
from netdiff_ray.diffusion.adapter import (
    METADATA_FILE,
    adapter_digest,
    metadata_text,
    parse_metadata,
)
from netdiff_ray.errors import ConfigError
from netdiff_ray.generation.pool import PoolRequest
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    apportion,
    plan_scene_shards,
    plan_shards,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.labels.addresses import AddressPlan, plan_addresses
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.scenes.planner import ScenePlanner, scene_metadata
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class GenerationRun:
    """What a run makes, from what, and how."""

    target: Store
    metadata: AdapterMetadata
    """Of the adapter, of the flows that have what the configuration pins."""
    adapter_files: Mapping[str, bytes]
    """Content by name, with `metadata`."""
    plans: list[ShardPlan]
    base: BaseSettings
    """Its device is that of the denoisers."""
    draw: DrawSettings
    shards: ShardSettings
    pcap_per_flow: bool
    denoisers: PoolRequest
    identity: dict
    """What decides the dataset's content."""
    origin: dict
    """The manifest's entries of models and versions."""


def resolve_run(
    config: GenerateConfig,
    target: Store,
    adapter: Store,
    files: Mapping[str, bytes],
    scene: Scene | None = None,
) -> GenerationRun:
    """Fill in what a configuration leaves to its adapter.

    Args:
        adapter: where the adapter lies.
        files: of the adapter, content by name.
        scene: that the flows are of, if they are of one.

    Raises:
        ConfigError: the adapter has no such label, or no flows as they are pinned, or
            networks do not fit its flows.
        ModelError: there is no adapter, or it is unreadable.
    """
    digest = adapter_digest(files)
    metadata = parse_metadata(files.get(METADATA_FILE), adapter.uri)
    if scene is None:
        pinned, plans, addresses = _plan(config, metadata)
    else:
        pinned, plans = _plan_scene(config, metadata, scene)
        addresses = AddressPlan()
    return GenerationRun(
        target=target, metadata=pinned, plans=plans,
        adapter_files={**files, METADATA_FILE: metadata_text(pinned).encode()},
        base=_base_settings(config, metadata), draw=_draw_settings(config),
        shards=ShardSettings(
            seed=config.draw.seed, payload=config.payload, order=config.order,
            flows_per_second=config.flows_per_second, keep_drawn=config.keep_drawn,
            start_ns=config.pins.start_ns(),
            addresses=addresses, scene=scene, form=config.format,
        ),
        pcap_per_flow=config.pcap_per_flow,
        denoisers=PoolRequest(
            sizes=config.denoisers, gpus=config.gpus_per_denoiser, cpus=config.cpus_per_denoiser
        ),
        identity=_identity(config, metadata, digest)
        | ({} if scene is None else {"scene": content_of(scene)}),
        origin=_origin(config, metadata, adapter.uri, digest),
    )  # fmt: skip


def _plan(
    config: GenerateConfig, metadata: AdapterMetadata
) -> tuple[AdapterMetadata, list[ShardPlan], AddressPlan]:
    """Return the metadata of what is pinned, the shards, and where hosts have their addresses."""
    weights = config.weights()
    labels = tuple(weights) or config.labels or tuple(metadata.labels)
    counts = apportion(config.flows, weights) if weights else dict.fromkeys(labels, config.flows)
    plans = plan_shards(counts, config.flows_per_shard)
    for label in labels:
        label_statistics(metadata, label)
    pinned = pin_metadata(metadata, labels, config.pins)
    return pinned, plans, plan_addresses(pinned, counts, config.pins, config.draw.seed)


def _plan_scene(
    config: GenerateConfig, metadata: AdapterMetadata, scene: Scene
) -> tuple[AdapterMetadata, list[ShardPlan]]:
    """Return the metadata of the flows of the scene's IP version, and its shards."""
    pinned = scene_metadata(metadata, scene, config.draw.seed)
    planner = ScenePlanner(pinned, scene, config.draw.seed)
    plans = plan_scene_shards(planner.counts(), config.flows_per_shard)
    if not plans:
        raise ConfigError(
            "no flow begins in the scene: give it more hosts, more minutes or a higher "
            "sessions_per_hour"
        )
    return pinned, plans


def _identity(config: GenerateConfig, metadata: AdapterMetadata, digest: str) -> dict:
    """Return what decides the dataset's content, the labels filled in."""
    labels = () if config.mix else tuple(sorted(config.labels or metadata.labels))
    config = replace(
        config, labels=labels, mix=tuple(sorted(config.mix)),
        loras=tuple(map(lora_text, config.draw_settings().loras)),
    )  # fmt: skip
    return run_identity("generate", config, {"adapter": digest, "base": metadata.base_digest})


def _origin(config: GenerateConfig, metadata: AdapterMetadata, uri: str, digest: str) -> dict:
    """Return the manifest's entries of models and versions."""
    return {
        "models": {
            "adapter": {"name": uri, "sha256": digest},
            "base": {
                "name": config.base or metadata.base,
                "revision": config.revision or metadata.revision,
                "sha256": metadata.base_digest,
            },
        },
        "drawn_with": {name: distributions.version(name) for name in ("torch", "diffusers")},
    }


def _base_settings(config: GenerateConfig, metadata: AdapterMetadata) -> BaseSettings:
    revision = config.revision if config.base else (config.revision or metadata.revision)
    return BaseSettings(
        base=_absolute(config.base or metadata.base), revision=revision,
        controlnet=_absolute(config.controlnet) if config.controlnet else None,
        controlnet_revision=config.controlnet_revision, control_image=config.control_image,
        control_pixels=config.control_pixels, variant=config.variant,
        transformer_file=_absolute(config.transformer_file) if config.transformer_file else None,
        dtype=config.dtype, compile=config.compile, slice_vae=config.slice_vae,
        tile_vae=config.tile_vae,
    )  # fmt: skip


def _draw_settings(config: GenerateConfig) -> DrawSettings:
    settings = config.draw_settings()
    loras = tuple(replace(lora, source=_absolute(lora.source)) for lora in settings.loras)
    return replace(settings, loras=loras)


def _absolute(source: str) -> str:
    """Return a path that every working folder resolves alike; names as they are."""
    return os.path.abspath(source) if os.path.exists(source) else source
