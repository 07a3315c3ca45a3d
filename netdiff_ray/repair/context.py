"""What repair may know beyond the drawn matrix: the facts of a label, and the user's choices."""

from dataclasses import dataclass, field
from typing import Literal

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.profile import Profile

PayloadMode = Literal["framed", "zeros", "random", "none"]
PAYLOAD_MODES: tuple[PayloadMode, ...] = ("framed", "zeros", "random", "none")

DEFAULT_START_NS = 1_700_000_000_000_000_000
"""2023-11-14 22:13:20 UTC: when captures begin unless another time is given."""

_MOST_BYTES = 65_535


@dataclass(frozen=True, kw_only=True)
class RepairContext:
    """AdapterMetadata of one label, as an adapter holds them, and choices of the user."""

    label: str = ""
    """Names the label's servers in the address plan."""
    server_ports: tuple[int, ...] = ()
    """Server ports known of the label; the drawn one is snapped to the nearest by Hamming
    distance. Empty: the drawn one stands."""
    lifetimes: tuple[int, ...] = ()
    """TTLs and hop limits known of the label; the drawn one is snapped likewise. Empty:
    to a plausible distance from 64, 128 or 255."""
    interarrival_weights: tuple[float, ...] = ()
    """256 weights, one a level of `timecode`, from which a layout without times draws
    them; of a layout with times, longer ones than any of these are cut to the longest. Empty:
    `DEFAULT_INTERARRIVAL`."""
    profile: Profile = field(default_factory=Profile)
    """What the label's flows begin and end with; drawn payload lengths, directions, flags, windows
    and times are moved to likely ones of these. Empty: they stand."""
    most_packet_bytes: int = _MOST_BYTES
    """The longest IP packet."""
    payload: PayloadMode = "framed"
    """What fills the drawn lengths: `framed`, valid frames of what the port means; `zeros`;
    `random`; `none`, headers only with the wire length kept."""
    start_ts_ns: int = DEFAULT_START_NS
    """Nanoseconds since 1970-01-01 UTC from which each flow's first inter-arrival counts."""

    def __post_init__(self):
        for name, values, most in (
            ("server_ports", self.server_ports, 65_535),
            ("lifetimes", self.lifetimes, 255),
        ):
            for value in values:
                if not 1 <= value <= most:
                    raise ConfigError(f"{name} holds {value}; each is 1 to {most:,}")
        weights = self.interarrival_weights
        if weights and (len(weights) != 256 or min(weights) < 0 or not sum(weights) > 0):
            raise ConfigError(
                "interarrival_weights must be 256 weights, none negative, not all 0; "
                f"there are {len(weights)}"
            )
        if self.payload not in PAYLOAD_MODES:
            raise ConfigError(
                f"payload {self.payload!r} is not known; modes are {', '.join(PAYLOAD_MODES)}"
            )
        if not 576 <= self.most_packet_bytes <= _MOST_BYTES:
            raise ConfigError(
                f"most_packet_bytes is {self.most_packet_bytes:,}; it is 576 to {_MOST_BYTES:,}"
            )
