"""Configuration of `netdiff generate`."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import (
    check_share,
    paths_as_text,
    require,
    require_at_least_1,
    require_min_max,
)
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import DrawSettings, Lora
from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError

_MinMax = Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LEAST MOST")]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Draw flows with an adapter, repair them and write them as a pcap dataset, on Ray.

    Running it again does what is missing. What cannot be made into packets is listed in
    the dataset's quarantine.jsonl with the reason.
    """

    adapter: Input[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]]
    """Folder or URI of the adapter."""
    target: Execution[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """Folder or URI of the dataset."""
    flows: int = 1000
    """Flows of each label; with --mix, of all together."""
    labels: tuple[str, ...] = ()
    """Labels to draw; all that the adapter knows unless given."""
    mix: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL=WEIGHT ...")] = ()
    """Labels to draw with their weights, as in --mix web=3 dns=1."""
    pins: Annotated[PlanPins, tyro.conf.arg(name="")] = field(default_factory=PlanPins)
    """What all flows have in common."""
    base: Input[str | None] = None
    """Base model, a directory or a name; the one that the adapter was trained on unless given."""
    revision: Input[str | None] = None
    """The commit of a base on the hub."""
    controlnet: str | None = None
    """ControlNet instead of the base's own, a directory or a name."""
    controlnet_revision: str | None = None
    """The commit of a ControlNet on the hub."""
    control_image: Literal["plan", "edges"] = "plan"
    """What the ControlNet takes: the picture of a flow's plan, or its Canny edges."""
    control_pixels: Literal["auto", "normalised", "sd3.5-large-canny"] = "auto"
    """Pixels that the ControlNet takes: normalised (-1 to 1), or those of SD3.5 Large's Canny
    ControlNet (0.5 to 128); auto is what its config and the control image say."""
    variant: str | None = None
    """Variant of the base's weights, such as fp16, where it has one."""
    transformer_file: str | None = None
    """A .safetensors file with the transformer's weights, in place of those of the base."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    compile: Execution[bool] = False
    """Compile the transformer before drawing: slow to begin, faster then."""
    slice_vae: Execution[bool] = False
    """Encode and decode one raster at a time, to save memory."""
    tile_vae: bool = False
    """Encode and decode rasters in tiles, to save memory; the result differs a little."""
    draw: Annotated[DrawSettings, tyro.conf.arg(name="")] = field(default_factory=DrawSettings)
    """How to draw."""
    loras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE[@COMMIT][=SCALE] ...")] = ()
    """LoRAs to stack on the adapter's, such as one for few steps: files, directories or names."""
    payload: Literal["dialogue", "zeros", "random", "none"] = "dialogue"
    """What fills the drawn lengths: dialogue (messages that answer each other), zeros, random
    bytes, or none (headers only; the length on the wire stays)."""
    order: Literal["sequential", "interleaved"] = "sequential"
    """Flows one after another, or overlapping as they would arrive."""
    flows_per_second: float = 10.0
    """Mean arrival rate of interleaved flows."""
    flows_per_shard: int = 500
    """Flows of one output file: what a worker draws at a time."""
    format: Literal["pcap", "pcapml"] = "pcap"
    """Form of the captures: pcap, or pcapml (pcapng, where a comment on each packet has the id of
    its flow, as a sample, and the label)."""
    pcap_per_flow: bool = False
    """Write a capture a flow."""
    keep_drawn: bool = False
    """Keep what was drawn before repair too, as windows in OUT/drawn; evaluate then sets it
    beside what repair made of it."""
    denoisers: Execution[_MinMax] = None
    """Workers that draw: as many as the cluster has room for unless given. A least of 0 is for a
    cluster that grows: the first waits until its autoscaler has made room for it."""
    gpus_per_denoiser: Execution[float | None] = None
    """GPUs of each, 0 to draw on the CPU; 1 unless given, where there are any."""
    cpus_per_denoiser: Execution[float] = 0.9
    """CPUs of each. A whole one goes to it and to the task that repairs and writes beside it."""
    max_quarantined_share: Execution[float] = 0.05
    """Share of the flows that may be quarantined before the exit code says so."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the result, and lines of progress, as JSON."""

    def __post_init__(self):
        paths_as_text(self)
        if self.labels and self.mix:
            raise ConfigError("labels and mix exclude each other; mix names its labels")
        if self.format == "pcapml" and self.pcap_per_flow:
            raise ConfigError("a capture of pcapml holds all flows of a shard; leave one out")
        require_at_least_1(self, "flows", "flows_per_shard")
        for name in ("flows_per_second", "cpus_per_denoiser"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        if self.denoisers is not None:
            require_min_max(self, "denoisers")
        gpus = self.gpus_per_denoiser
        divides = gpus is None or 0 <= gpus <= 1 or gpus == int(gpus) > 0
        require(divides, "gpus_per_denoiser", gpus, "a whole number, or a share of 1")
        check_share("max_quarantined_share", self.max_quarantined_share)
        self.weights()
        self.draw_settings()

    def weights(self) -> dict[str, float]:
        """Return the weight of each label of `mix`."""
        weights: dict[str, float] = {}
        for pair in self.mix:
            label, _, weight = pair.rpartition("=")
            try:
                weights[label] = float(weight)
            except ValueError:
                weights[label] = -1.0
            holds = bool(label) and 0 < weights[label] < float("inf")
            require(holds, "mix", pair, "a label, = and a weight above 0, as in web=3")
        return weights

    def draw_settings(self) -> DrawSettings:
        """Return how to draw, `loras` included."""
        return replace(self.draw, loras=tuple(_lora(text) for text in self.loras))


def lora_text(lora: Lora) -> str:
    """Return what the field `loras` has for a LoRA."""
    source = f"{lora.source}/{lora.weight_name}" if lora.weight_name else lora.source
    return f"{source}{f'@{lora.revision}' if lora.revision else ''}={lora.scale}"


def _lora(text: str) -> Lora:
    """Return the LoRA of a text SOURCE[@COMMIT][=SCALE]."""
    named, equals, scale = text.rpartition("=")
    source, _, revision = (named if equals else text).partition("@")
    try:
        return Lora(source=source, revision=revision or None, scale=float(scale) if equals else 1.0)
    except ValueError:
        raise ConfigError(f"loras has {text!r}: its scale {scale!r} must be a number") from None
