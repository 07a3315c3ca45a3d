"""Configuration of `netdiff replay`."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import paths_as_text, require

Sender = Literal["socket", "tcpreplay"]


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Send the packets of a pcap dataset or a capture on a network interface, at their times.

    Needs Linux and the right to send raw frames (root, or CAP_NET_RAW).
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or URI of a pcap dataset, or a capture of Ethernet frames."""
    interface: str
    """Network interface to send on, such as veth0."""
    sender: Sender = "socket"
    """What sends: a packet socket, which keeps to the times of packets and catches up when it is
    late, up to some ten thousand packets a second; or tcpreplay, for higher rates."""
    speed: float = 1.0
    """How many times faster than in the source packets follow one another."""

    def __post_init__(self):
        paths_as_text(self)
        require(0 < self.speed < float("inf"), "speed", self.speed, "a number above 0")
