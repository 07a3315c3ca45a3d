"""Configuration of `netdiff scene`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import check_share, paths_as_text, require, require_at_least_1
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.config.generate import GenerateConfig
from netdiff_ray.config.pipeline import folder_in
from netdiff_ray.errors import ConfigError

FLOWS_FOLDER = "flows"
"""Of a scene's folder, with the pcap dataset of its flows."""
_Paths = Annotated[
    tuple[str, ...], tyro.conf.Positional,
    tyro.conf.arg(metavar="[SCENE.toml] OUT", help_behavior_hint=""),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Draw the traffic of a network over a time, and write it in time order, on Ray.

    OUT gets captures in time order, labels.csv, hosts.csv and scene.json, written last, and in
    OUT/flows the flows as a pcap dataset. Running it again does what is missing.
    """

    paths: Execution[_Paths]
    """The file that says what the scene is, if there is one, and the folder or URI to write to."""
    adapter: Input[str]
    """Folder or URI of the adapter."""
    hosts: Execution[int | None] = None
    """Clients of a scene without a file; 50 unless given."""
    minutes: Execution[float | None] = None
    """How long a scene without a file lasts; 10 unless given."""
    shard_seconds: float = 600.0
    """Time that a capture of OUT covers; the last has all that is later."""
    merge: bool = False
    """Write a single capture."""
    base: Input[str | None] = None
    """Base model, a directory or a name; the one that the adapter was trained on unless given."""
    draw: Annotated[DrawSettings, tyro.conf.arg(name="")] = field(default_factory=DrawSettings)
    """How to draw."""
    payload: Literal["dialogue", "zeros", "random", "none"] = "dialogue"
    """What fills the drawn lengths, as in generate."""
    flows_per_shard: int = 200
    """Flows that a worker draws at a time, of a label and of 64 hosts."""
    denoisers: Execution[Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LEAST MOST")]] = (
        None
    )
    """Workers that draw, as in generate."""
    gpus_per_denoiser: Execution[float | None] = None
    """GPUs of each, as in generate."""
    cpus_per_denoiser: Execution[float] = 0.9
    """CPUs of each, as in generate."""
    max_quarantined_share: Execution[float] = 0.05
    """Share of the flows that may be quarantined before the exit code says so."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the result, and lines of progress, as JSON."""

    def __post_init__(self):
        paths_as_text(self)
        paths = (self.paths,) if isinstance(self.paths, str) else tuple(map(str, self.paths))
        object.__setattr__(self, "paths", paths)
        require(len(paths) in (1, 2), "paths", paths, "[SCENE.toml] OUT: one or two paths")
        if self.file is not None:
            for name in ("hosts", "minutes"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} is said by {self.file}; leave one of both out")
        if self.hosts is not None:
            require_at_least_1(self, "hosts")
        for name in ("minutes", "shard_seconds"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0")
        check_share("max_quarantined_share", self.max_quarantined_share)
        self.generation(self.draw)

    @property
    def file(self) -> str | None:
        """The file that says what the scene is."""
        return self.paths[0] if len(self.paths) == 2 else None

    @property
    def target(self) -> str:
        """Folder or URI to write to."""
        return self.paths[-1]

    @property
    def flows_target(self) -> str:
        """Folder or URI of the dataset of its flows."""
        return folder_in(self.target, FLOWS_FOLDER)

    def generation(self, draw: DrawSettings) -> GenerateConfig:
        """Return how its flows are drawn."""
        return GenerateConfig(
            adapter=self.adapter, target=self.flows_target, base=self.base, draw=draw,
            payload=self.payload, order="interleaved", flows_per_shard=self.flows_per_shard,
            denoisers=self.denoisers, gpus_per_denoiser=self.gpus_per_denoiser,
            cpus_per_denoiser=self.cpus_per_denoiser, address=self.address, json=self.json,
            max_quarantined_share=self.max_quarantined_share,
        )  # fmt: skip
