"""Toy bases of real diffusers classes, and windows to train on, also as fixtures."""

import numpy as np
import pytest

from netdiff_ray.config.diffusion import (
    BaseSettings,
    DrawSettings,
    FlowMatchingSettings,
    OptimizationSettings,
    TrainSettings,
)
from netdiff_ray.diffusion import denoise
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.train import train
from netdiff_ray.header_bytes import (
    ACK,
    DPORT,
    IPPROTO_TCP,
    IPV4_HEADER_BYTES,
    IPV4_PROTO,
    IPV4_TL,
    IPV4_TTL,
    IPV4_VER,
    PSH,
    SPORT,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
)
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.nprint.codec import encode
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.packets.headers import HEADER_ROW
from netdiff_ray.pretraining.nano import NanoSizes, build

TOY = NanoSizes(width=32, layers=2, patch_size=8, vae_channels=(4,), text_width=16, reach=88)
LABELS = ("chat", "video call", "näme/odd")
MANY_STEPS = 6


def settings(**optimization) -> TrainSettings:
    """Return settings of a short training."""
    chosen = {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, **optimization}
    return TrainSettings(rank=2, max_height=32, optimization=OptimizationSettings(**chosen))


def with_control(**optimization) -> TrainSettings:
    return TrainSettings(
        rank=2, max_height=32, optimization=settings(**optimization).optimization,
        objective=FlowMatchingSettings(control_scale=1.0),
    )  # fmt: skip


def quiet(_report) -> None:
    """Ignore a report."""


def made_rows(num_packets: int, port: int, lifetime: int, rng) -> tuple:
    """Return header rows of a TCP exchange, their directions and times."""
    rows = np.zeros(num_packets, HEADER_ROW)
    direction = rng.integers(0, 2, num_packets).astype(np.uint8)
    direction[0] = 0
    network, transport = rows["network"], rows["transport"]
    network[:, IPV4_VER] = 4 << 4 | IPV4_HEADER_BYTES // 4
    network[:, IPV4_TL + 1] = rng.integers(40, 250, num_packets)
    network[:, IPV4_TTL] = np.where(direction == 0, 64, lifetime)
    network[:, IPV4_PROTO] = rows["protocol"] = IPPROTO_TCP
    rows["network_len"], rows["version"] = IPV4_HEADER_BYTES, 4
    client, server = 0xC001, port
    ports = np.where(direction[:, None] == 0, [client, server], [server, client]).astype(">u2")
    transport[:, SPORT : DPORT + 2] = ports.view(np.uint8)
    transport[:, TCP_DOFF] = TCP_HEADER_BYTES // 4 << 4
    transport[:, TCP_FLAGS] = PSH | ACK
    rows["transport_len"] = TCP_HEADER_BYTES
    times = rng.integers(10_000, 1_000_000, num_packets)
    return rows, direction, times


def made_windows(per_label: int = 9, layout_name: str = "stateful", longest: int = 40):
    """Return windows of at most 32 packets; longer flows have two."""
    rng = np.random.default_rng(5)
    layout = layout_named(layout_name)
    columns = {"nprint": [], "label": [], "service": [], "flow": [], "window": []}
    for number, label in enumerate(LABELS):
        for k in range(per_label):
            packets = int(rng.integers(3, longest))
            port = 443 if k else 9000 + number
            rows, direction, times = made_rows(packets, port, 50 + number, rng)
            nprint = encode(rows, layout, direction=direction, interarrival_ns=times)
            for window, first in enumerate(range(0, packets, 32)):
                columns["nprint"].append(nprint[first : first + 32])
                columns["label"].append(label)
                columns["service"].append(f"tcp-{port}")
                columns["flow"].append(f"{label}-{k}")
                columns["window"].append(window)
    return LabelledWindows(**columns, layout=layout)


def condition_of(base, adapter, samples):
    """Return the condition that `draw_batch` gives to `denoise`, without control images."""
    return denoise.condition_of(base, adapter, samples, DrawSettings())


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory):
    """Return a complete SD3 directory, its ControlNet of SD3.5's kind."""
    directory = tmp_path_factory.mktemp("bases") / "toy"
    build(directory, TOY, seed=1)
    return directory


@pytest.fixture
def base(toy_directory):
    """Return the toy base, fresh."""
    return load_base(BaseSettings(base=str(toy_directory), device="cpu"))


@pytest.fixture(scope="session")
def windows():
    return made_windows()


@pytest.fixture(scope="session")
def adapter_directory(toy_directory, windows, tmp_path_factory):
    """Return an adapter of the toy base, trained with its ControlNet."""
    directory = tmp_path_factory.mktemp("adapters") / "toy"
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    return train(base, windows, directory, with_control(learning_rate=1e-2), quiet)


@pytest.fixture
def ready(base, adapter_directory):
    """Return the toy base with its adapter in it, and the adapter."""
    adapter = read_adapter(adapter_directory)
    load_adapter(base, adapter)
    return base, adapter
