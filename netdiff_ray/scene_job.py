"""`netdiff scene` as a function: draw a scene's flows, and write them in time order."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.config.scene import SceneConfig
from netdiff_ray.diffusion.adapter import METADATA_FILE, parse_metadata
from netdiff_ray.distributed.generate import Progress, generate
from netdiff_ray.errors import ConfigError
from netdiff_ray.export.scene import SceneFiles, write_scene
from netdiff_ray.scenes.planner import ScenePlanner, scene_metadata
from netdiff_ray.scenes.read import read_scene
from netdiff_ray.scenes.scene import DEFAULT_HOSTS, DEFAULT_MINUTES, Scene, Site
from netdiff_ray.storage.manifest import Dataset
from netdiff_ray.storage.store import open_store


@dataclass(frozen=True, kw_only=True)
class SceneResult:
    """What a scene has become."""

    flows: Dataset
    """Its flows, as a pcap dataset."""
    written: SceneFiles
    """Its captures in time order, and what is true of them."""


def scene(
    config: SceneConfig,
    progress: Progress = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
    merged: Callable[[int, int], None] = lambda *_: None,
) -> SceneResult:
    """Draw what is missing of a scene, and write its captures, labels, hosts and incidents.

    Args:
        config: of the job.
        progress, note: see `generate`.
        merged: called with shards whose labels are written, and shards.

    Raises:
        ConfigError: the scene is not right, or the adapter does not have what it names.
        NetdiffError: see `generate` and `write_scene`.
    """
    planned = scene_of(config)
    draw = _draw_settings(config, planned)
    dataset = generate(config.generation(draw), progress, note, planned)
    adapter = open_store(config.adapter)
    metadata = parse_metadata(adapter.get(METADATA_FILE), adapter.uri)
    pinned = scene_metadata(metadata, planned, draw.seed)
    written = write_scene(
        open_store(config.target), dataset, ScenePlanner(pinned, planned, draw.seed),
        None if config.merge else config.shard_seconds, merged,
    )  # fmt: skip
    return SceneResult(flows=dataset, written=written)


def scene_of(config: SceneConfig) -> Scene:
    """Return the scene of a configuration: that of its file, or one of so many hosts.

    Raises:
        ConfigError: the file cannot be read, or is not right.
    """
    if config.file is None:
        site = Site(name="site", hosts=config.hosts or DEFAULT_HOSTS)
        return Scene(sites=(site,), minutes=config.minutes or DEFAULT_MINUTES)
    try:
        content = Path(config.file).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {config.file}: {error.strerror}") from None
    return read_scene(content, config.file)


def _draw_settings(config: SceneConfig, planned: Scene) -> DrawSettings:
    """Return how to draw, with the seed that the file gives.

    Raises:
        ConfigError: the file and the configuration give different seeds.
    """
    if planned.seed is None:
        return config.draw
    if config.draw.seed not in (DrawSettings().seed, planned.seed):
        raise ConfigError(
            f"seed is {planned.seed} in {config.file} and {config.draw.seed} beside it; leave one "
            "out"
        )
    return replace(config.draw, seed=planned.seed)
