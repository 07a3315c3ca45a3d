"""What each job takes: frozen, keyword-only dataclasses, from which the command line is made."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from netdiff_ray.diffusion.settings import (
    EMBEDDED_BASE,
    EMBEDDED_BASE_HEIGHT,
    BaseSettings,
    DrawSettings,
    LoopSettings,
    Lora,
    TrainSettings,
)
from netdiff_ray.errors import UsageError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, HEIGHTS, layout_named

LAYOUT_METAVAR = "{nprint,nprint-1088,timed}"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert between a capture, .nprint text and .png rasters, by the suffixes.

    Inputs: any capture (known by content), .nprint, .png. Outputs: .pcap, .pcapng,
    .nprint, .png. A capture of several flows gives several images, numbered before the
    suffix. Captures made from .nprint or .png hold the headers only, as they stand.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """What to read."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """What to write; its suffix decides the form."""
    layout: Annotated[str | None, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = None
    """Fields to keep: nprint, nprint-1088 or timed. Unless given, that of IN, and for a
    capture nprint in text and timed in images."""
    strict: bool = False
    """Read captures as nPrint 1.2.1 does, its faults included."""
    count: int | None = None
    """Read the first so many records only (records that give no row count too)."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    height: int = DEFAULT_HEIGHT
    """Most rows of one image."""

    def __post_init__(self):
        if self.layout is not None:
            layout_named(self.layout)
        if self.count is not None and self.count < 1:
            raise UsageError(f"--count {self.count}: at least 1 record has to be read")
        check_flow_settings(self.idle_timeout_s, self.height)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what captures hold: packets, flows, link types, lengths, what was skipped and why."""

    captures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Captures, or folders whose captures (all files with a capture's suffix) are taken."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self):
        if not self.captures:
            raise UsageError("name at least one capture")
        check_flow_settings(self.idle_timeout_s, DEFAULT_HEIGHT)


@dataclass(frozen=True, kw_only=True)
class RepairConfig:
    """Make packets of drawn .nprint or .png files, NetDiffusion's own included.

    Each file is a flow. What is wrong with it is corrected and every corrected bit
    counted; a file that gives no flow is set aside with its reason.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A drawn file, or a folder of them, whose inner folders name the labels."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A capture (.pcap, .pcapng), or the folder of a dataset."""
    label: str | None = None
    """Label of every flow, instead of the folder's name."""
    payload: Literal["framed", "zeros", "random", "none"] = "framed"
    """What fills the drawn lengths: frames of what the port means, zeros, random bytes, or
    nothing (headers only, wire length kept)."""
    server_ports: tuple[int, ...] = ()
    """Ports that servers of this traffic have; the drawn one is snapped to the nearest."""
    order: Literal["sequential", "interleaved"] = "sequential"
    """Flows one after another, or overlapping as they would arrive."""
    flows_per_second: float = 10.0
    """Mean arrival rate of interleaved flows."""
    flows_per_shard: int = 1000
    """Flows in one output file of a dataset."""
    pcap_per_flow: bool = False
    """Write a capture a flow."""
    seed: int = 0
    """Seed of everything that is drawn: addresses, ports, payload, times inside a level."""
    allow: float = 0.0
    """Share of the files that may be set aside before the exit code says so."""

    def __post_init__(self):
        if self.flows_per_shard < 1:
            raise UsageError(f"--flows-per-shard {self.flows_per_shard}: at least 1")
        if not self.flows_per_second > 0:
            raise UsageError(f"--flows-per-second {self.flows_per_second}: more than 0")
        check_share(self.allow)
        if self.label is not None and not re.fullmatch(r"[\w.-]+", self.label):
            raise UsageError(
                f"--label {self.label!r}: letters, digits, dot, underscore and hyphen only"
            )


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Tell what a path is: a dataset, an adapter, a base or a capture, and what it holds."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Folder, file or URI."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a dataset: hashes and counts against its manifest, packets against its index."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URI of the dataset."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode a collection of captures as nPrint windows in Parquet, in parallel on Ray.

    Running it again does what is missing. A capture that cannot be read, or only in part,
    is listed in the dataset's quarantine.jsonl with the reason.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or URI of the dataset."""
    labels: str | None = None
    """CSV with columns capture and label. Unless given, the innermost folder called
    label=<label> names the label, else the parent folder."""
    layout: Annotated[str, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = DEFAULT_LAYOUT
    """Fields to keep."""
    height: int = DEFAULT_HEIGHT
    """Most packets of one window; a longer flow has several."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    part_megabytes: int = 64
    """Captures that one task encodes into one file, in MiB."""
    split_megabytes: int = 256
    """A pcap that is larger, and not compressed, is read in byte ranges by many tasks."""
    allow: float = 0.05
    """Share of the captures that may be damaged before the exit code says so."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self):
        layout_named(self.layout)
        check_flow_settings(self.idle_timeout_s, self.height)
        for name in ("part_megabytes", "split_megabytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        check_share(self.allow)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a LoRA adapter on an encoded dataset, with one or many workers on Ray.

    OUT becomes the adapter. Running it again goes on from the last checkpoint, and does
    nothing when the adapter is finished.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODED")]
    """Folder or URI of the encoded dataset."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or URI of the adapter; its checkpoints lie in OUT/run."""
    labels: tuple[str, ...] = ()
    """Labels to learn; all of the dataset's unless given."""
    workers: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N | MIN MAX")] = (1,)
    """Processes that train together; MIN MAX for as many as the cluster has, changing while it
    runs. Their number does not change the adapter, but for the last bits of floating point."""
    gpus_per_worker: Literal[0, 1] = 0
    """1 to train on GPUs."""
    cpus_per_worker: int | None = None
    """CPUs of each worker; unless given, an equal share of this machine's, or 1 on a cluster."""
    max_failures: int = 3
    """How often dead workers are replaced before the job gives up."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the result as JSON."""
    base: Annotated[BaseSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: BaseSettings(base="nano")
    )
    """What is fine-tuned."""
    settings: Annotated[TrainSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=TrainSettings
    )
    """How."""

    def __post_init__(self):
        if len(self.workers) not in (1, 2) or not 1 <= self.workers[0] <= self.workers[-1]:
            said = " ".join(map(str, self.workers))
            raise UsageError(f"--workers {said}: a number from 1 up, or the fewest and the most")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise UsageError(f"--cpus-per-worker {self.cpus_per_worker}: at least 1")
        if self.max_failures < 0:
            raise UsageError(f"--max-failures {self.max_failures}: 0 or more")


def check_share(allow: float) -> None:
    """Raise UsageError unless this is an allowed share."""
    if not 0 <= allow <= 1:
        raise UsageError(f"--allow {allow}: a share, 0 to 1")


def check_flow_settings(idle_timeout_s: float, height: int) -> None:
    """Raise UsageError unless flows can be cut with these."""
    if not 0 < idle_timeout_s <= 1e9:
        raise UsageError(f"--idle-timeout-s {idle_timeout_s}: more than 0 seconds are needed")
    if height not in HEIGHTS:
        raise UsageError(f"--height {height}: one of {', '.join(map(str, HEIGHTS))}")


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check captures against the named rules of protocol-compliant packets and flows.

    Exit code 0: all valid, but for the allowed fraction; 1: more is invalid; 2: a capture
    cannot be read to its end, or holds no IP packet.
    """

    captures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Captures: pcap or pcapng, gzip too."""
    allow: float = 0.0
    """Fraction of packets, and of flows, that may be invalid."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        if not self.captures:
            raise UsageError("name at least one capture")
        if not 0 <= self.allow <= 1:
            raise UsageError(f"--allow {self.allow}: a fraction from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge synthetic traffic against real traffic: report.json and report.html, on Ray.

    Each side is an encoded dataset, a pcap dataset, or captures (a folder of them whose
    folders name the labels, a glob, or one file); a path or a URI (s3://, gs://). Exit code
    0: all parts are there; 1: some are not available, with the reason; 2: nothing is.
    """

    real: str
    """Real flows that the model was not trained on."""
    synthetic: str
    """Generated flows."""
    out: str
    """Folder or URI of the report."""
    train: str | None = None
    """Real flows that the model was trained on; privacy is judged against them."""
    drawn: str | None = None
    """What the model drew for the synthetic flows, before repair: an encoded dataset."""
    seeds: int = 3
    """Times that each classifier is trained; intervals are over them."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the main figures as JSON."""

    def __post_init__(self):
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds}: at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Draw flows with an adapter, repair them and write them as a pcap dataset, on Ray.

    Running it again does what is missing. What cannot be made into packets is listed in
    the dataset's quarantine.jsonl with the reason.
    """

    adapter: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """Folder or URI of the adapter."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or URI of the dataset."""
    flows: int = 1000
    """Flows of each label; with --mix, of all together."""
    labels: tuple[str, ...] = ()
    """Labels to draw; all that the adapter knows unless given."""
    mix: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL=WEIGHT ...")] = ()
    """Labels to draw with their weights, as in --mix web=3 dns=1."""
    base: str | None = None
    """Base model, a directory or a name; the one that the adapter was trained on unless given."""
    revision: str | None = None
    """The commit of a base on the hub."""
    controlnet: str | None = None
    """ControlNet instead of the base's own, a directory or a name."""
    controlnet_revision: str | None = None
    """The commit of a ControlNet on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    compile: bool = False
    """Compile the transformer before drawing: slow to begin, faster then."""
    draw: Annotated[DrawSettings, tyro.conf.arg(name="")] = field(default_factory=DrawSettings)
    """How to draw."""
    loras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE[@COMMIT][=SCALE] ...")] = ()
    """LoRAs to stack on the adapter's, such as one for few steps: files, directories or names."""
    payload: Literal["framed", "zeros", "random", "none"] = "framed"
    """What fills the drawn lengths: frames of what the port means, zeros, random bytes, or
    nothing (headers only, wire length kept)."""
    order: Literal["sequential", "interleaved"] = "sequential"
    """Flows one after another, or overlapping as they would arrive."""
    flows_per_second: float = 10.0
    """Mean arrival rate of interleaved flows."""
    flows_per_shard: int = 500
    """Flows of one output file: what a worker draws at a time."""
    pcap_per_flow: bool = False
    """Write a capture a flow."""
    denoisers: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LEAST MOST")] = None
    """Workers that draw: as many as the cluster has room for unless given. A least of 0 is for a
    cluster that grows: the first waits until its autoscaler has made room for it."""
    gpus_per_denoiser: float | None = None
    """GPUs of each, 0 to draw on the CPU; 1 unless given, where there are any."""
    cpus_per_denoiser: float = 0.9
    """CPUs of each. A whole one goes to it and to the task that repairs and writes beside it."""
    allow: float = 0.05
    """Share of the flows that may be set aside before the exit code says so."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self):
        if self.labels and self.mix:
            raise UsageError("--labels and --mix: give one of them; --mix names its labels")
        for name in ("flows", "flows_per_shard"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        if not self.flows_per_second > 0:
            raise UsageError(f"--flows-per-second {self.flows_per_second}: more than 0")
        least, most = self.denoisers or (1, 1)
        if not 0 <= least <= most or most < 1:
            raise UsageError(f"--denoisers {least} {most}: at least 0, and no more than at most")
        gpus = self.gpus_per_denoiser
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise UsageError(f"--gpus-per-denoiser {gpus:g}: a whole number, or a share of 1")
        if not self.cpus_per_denoiser > 0:
            raise UsageError(f"--cpus-per-denoiser {self.cpus_per_denoiser}: more than 0")
        check_share(self.allow)
        self.weights()
        self.draw_settings()

    def weights(self) -> dict[str, float]:
        """Label to weight of --mix."""
        found: dict[str, float] = {}
        for pair in self.mix:
            label, _, weight = pair.rpartition("=")
            try:
                found[label] = float(weight)
            except ValueError:
                found[label] = -1.0
            if not label or not 0 < found[label] < float("inf"):
                raise UsageError(f"--mix {pair}: a label, = and a weight above 0, as in web=3")
        return found

    def draw_settings(self) -> DrawSettings:
        """How to draw, --loras among it."""
        return replace(self.draw, loras=tuple(_lora(text) for text in self.loras))


LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that only this machine reaches."""
Role = Literal["draw", "submit"]


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What a client of the endpoint may ask for."""

    flows: int = 1000
    """Flows of one request; a job may have any number."""
    steps: int = 100
    """Denoising steps."""
    body_bytes: int = 65_536
    """Bytes of a request's body."""
    body_seconds: float = 10.0
    """Until the body is there."""
    seconds: float = 600.0
    """Until the answer is complete; it is cut off then."""
    streams: int = 8
    """Captures that are streamed at a time; a further request is answered 429 at once."""
    jobs: int = 4
    """Jobs that wait or run at a time."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"--limits.{name.replace('_', '-')} {value}: more than 0")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer requests for flows over HTTP, with a page to try it, on Ray Serve.

    It listens to this machine only, unless clients have to show a token.
    """

    adapters: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")
    ] = ()
    """Adapters, or folders of adapters; paths or URIs that every node reaches. One that is
    not there yet is taken up when it comes."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    tokens: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SHA256:ROLE ...")] = ()
    """Whom to answer: the hex SHA-256 of each bearer token, a colon and its role, draw or
    submit (which may draw too)."""
    jobs_target: str | None = None
    """Folder or URI below which jobs write their datasets; there are no jobs without."""
    base: str | None = None
    """Base model, a directory or a name; the one of each adapter unless given."""
    revision: str | None = None
    """The commit of a base on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    draw: Annotated[DrawSettings, tyro.conf.arg(name="")] = field(default_factory=DrawSettings)
    """How to draw; seed and steps are what a request has that does not say."""
    denoisers: Annotated[tuple[int, int], tyro.conf.arg(metavar="LEAST MOST")] = (1, 1)
    """Replicas that draw; with a least of 0 they go when nobody asks, and come back."""
    gpus_per_denoiser: float | None = None
    """GPUs of each, 0 to draw on the CPU; 1 unless given, where there are any."""
    cpus_per_denoiser: float = 1.0
    """CPUs of each."""
    repairers: Annotated[tuple[int, int], tyro.conf.arg(metavar="LEAST MOST")] = (1, 2)
    """Replicas that repair."""
    cpus_per_repairer: float = 0.25
    """CPUs of each."""
    limits: ServeLimits = field(default_factory=ServeLimits)
    """What clients may ask for."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""

    def __post_init__(self):
        if not 0 < self.port < 65_536:
            raise UsageError(f"--port {self.port}: 1 to 65535")
        for name in ("denoisers", "repairers"):
            least, most = getattr(self, name)
            if not 0 <= least <= most or most < 1:
                raise UsageError(f"--{name} {least} {most}: at least 0, and no more than at most")
        if not self.host_is_loopback() and not self.tokens:
            raise UsageError(
                f"--host {self.host} is reachable by others, and there are no --tokens: give the "
                "hash and role of a token, or listen on 127.0.0.1"
            )
        self.roles()

    def host_is_loopback(self) -> bool:
        """Whether only this machine reaches the endpoint."""
        return self.host in LOOPBACK

    def roles(self) -> dict[str, Role]:
        """Role by lower-case hex SHA-256 of --tokens."""
        found: dict[str, Role] = {}
        for text in self.tokens:
            digest, _, role = text.lower().partition(":")
            if not re.fullmatch("[0-9a-f]{64}", digest) or role not in ("draw", "submit"):
                raise UsageError(
                    f"--tokens {text[:8]}...: the 64 hex digits of a token's SHA-256, a colon, and "
                    "draw or submit"
                )
            found[digest] = role
        return found


def lora_text(lora: Lora) -> str:
    """What --loras takes for it."""
    source = f"{lora.source}/{lora.weight_name}" if lora.weight_name else lora.source
    return f"{source}{f'@{lora.revision}' if lora.revision else ''}={lora.scale}"


def _lora(text: str) -> Lora:
    """SOURCE[@COMMIT][=SCALE]."""
    named, equals, scale = text.rpartition("=")
    source, _, revision = (named if equals else text).partition("@")
    try:
        return Lora(source=source, revision=revision or None, scale=float(scale) if equals else 1.0)
    except ValueError:
        raise UsageError(f"--loras {text}: the scale {scale!r} is no number") from None


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The whole way on Ray: encode captures, train an adapter, generate flows, evaluate them.

    OUT gets encoded/, adapter/, dataset/ and report/. Running it again does what is missing,
    and nothing when all is there. The verbs of the same names have more choices; run one by
    one on the same folders, they do the same.
    """

    captures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or URI of all that is made."""
    heldout: str | None = None
    """Captures that the model does not learn from, to judge the flows against; a folder, a
    glob or a dataset. Without them there is no report."""
    labels: tuple[str, ...] = ()
    """Labels to learn and to draw; all unless given."""
    labels_csv: str | None = None
    """CSV with columns capture and label. Unless given, the innermost folder called
    label=<label> names the label, else the parent folder."""
    height: int | None = None
    """Most packets of one window; a longer flow has several. 256 with nano, which draws no
    more, and 1,024 with other bases, unless given."""
    base: str = EMBEDDED_BASE
    """Base model: nano, a diffusers SD3-family directory, or a hub name."""
    revision: str | None = None
    """The commit of a base on the hub."""
    train_steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 8
    """Windows of one optimiser step."""
    learning_rate: float = 1e-4
    """Peak of the learning rate."""
    rank: int = 16
    """Of the LoRA matrices."""
    workers: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N | MIN MAX")] = (1,)
    """Processes that train together."""
    gpus_per_worker: Literal[0, 1] = 0
    """1 to train on GPUs. Drawing takes those that are there."""
    flows: int = 1000
    """Flows to draw of each label."""
    flows_per_shard: int = 500
    """Flows of one output file."""
    draw_steps: int = 28
    """Denoising steps."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none and costs half."""
    seed: int = 0
    """Of the training and of the drawing."""
    allow: float = 0.05
    """Share of the captures, and of the flows, that may be damaged or set aside before the
    pipeline stops there."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the results as JSON, a line a job."""

    def __post_init__(self):
        self.encode()
        self.train()
        self.generate()

    def encode(self) -> EncodeConfig:
        """Of the captures to OUT/encoded."""
        return EncodeConfig(
            source=self.captures, target=self.place("encoded"), labels=self.labels_csv,
            height=self.window_height(), allow=self.allow, address=self.address, json=self.json,
        )  # fmt: skip

    def window_height(self) -> int:
        """Most packets of one window."""
        if self.height is None:
            return EMBEDDED_BASE_HEIGHT if self.base == EMBEDDED_BASE else DEFAULT_HEIGHT
        return self.height

    def train(self) -> TrainConfig:
        """Of OUT/encoded to OUT/adapter."""
        loop = LoopSettings(
            steps=self.train_steps, batch_size=self.batch_size, seed=self.seed,
            learning_rate=self.learning_rate, warmup_steps=min(50, self.train_steps // 10),
        )  # fmt: skip
        return TrainConfig(
            source=self.place("encoded"), target=self.place("adapter"), labels=self.labels,
            workers=self.workers, gpus_per_worker=self.gpus_per_worker, address=self.address,
            json=self.json, base=BaseSettings(base=self.base, revision=self.revision),
            settings=TrainSettings(rank=self.rank, alpha=float(self.rank), loop=loop),
        )  # fmt: skip

    def generate(self) -> GenerateConfig:
        """Of OUT/adapter to OUT/dataset."""
        return GenerateConfig(
            adapter=self.place("adapter"), target=self.place("dataset"), flows=self.flows,
            flows_per_shard=self.flows_per_shard, allow=self.allow, address=self.address,
            json=self.json,
            draw=DrawSettings(seed=self.seed, steps=self.draw_steps, guidance=self.guidance),
        )  # fmt: skip

    def evaluate(self) -> EvaluateConfig | None:
        """Of OUT/dataset against the held-out captures to OUT/report; None without those."""
        if self.heldout is None:
            return None
        return EvaluateConfig(
            real=self.heldout, synthetic=self.place("dataset"), train=self.place("encoded"),
            out=self.place("report"), address=self.address, json=self.json,
        )  # fmt: skip

    def place(self, name: str) -> str:
        """A folder of OUT, whose URI may carry a query."""
        folder, question, query = self.target.partition("?")
        return f"{folder.rstrip('/')}/{name}{question}{query}"


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Run a verb as a job on a Ray cluster, and follow its log.

    VERB is encode, train, generate, evaluate, pipeline, verify or info, with its own flags:
    netdiff submit generate ADAPTER OUT --flows 1000000 --address http://head:8265. Paths are
    those that the cluster's machines see. The exit code is the job's; Ctrl-C leaves it running.
    """

    verb: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VERB [FLAGS ...]")
    ]
    """What to run."""
    address: str | None = None
    """Dashboard of the cluster, as in http://head:8265; unless given, that of
    RAY_API_SERVER_ADDRESS, or of the Ray that runs on this machine."""
    working_dir: str | None = None
    """Folder to send along, which the job runs in, such as a checkout of this project; unless
    given, the job runs what is installed on the cluster."""

    def __post_init__(self):
        if not self.verb:
            raise UsageError("submit: name a verb, as in netdiff submit encode CAPTURES OUT")
