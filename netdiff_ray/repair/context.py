"""What repair takes beside the drawn matrix: statistics of a label, and the user's choices."""

from dataclasses import dataclass, field
from typing import Literal

from netdiff_ray.config.pins import DEFAULT_START_NS
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.profile import Profile

PayloadMode = Literal["dialogue", "zeros", "random", "none"]
PAYLOAD_MODES: tuple[PayloadMode, ...] = ("dialogue", "zeros", "random", "none")

_MOST_BYTES = _MOST_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class RepairContext:
    """Statistics of one label, as an adapter holds them, and choices of the user."""

    label: str = ""
    """Names the label's servers in the address plan."""
    server_ports: tuple[int, ...] = ()
    """Server ports that flows may have where none is planned; the drawn port is snapped to the
    nearest by Hamming distance. Empty: the drawn port stands."""
    interarrival_weights: tuple[float, ...] = ()
    """256 weights of the levels of `nprint.timecode`, from which times are sampled if the layout
    has none; if it has, longer levels than any with weight are cut to the longest with weight.
    Empty: `DEFAULT_INTERARRIVAL`."""
    profile: Profile = field(default_factory=Profile)
    """How the label's flows begin and end; drawn payload lengths, directions, flags, windows
    and times are moved to likely values of it. Empty: they stand."""
    most_packet_bytes: int = _MOST_BYTES
    """The longest IP packet."""
    payload: PayloadMode = "dialogue"
    """What fills the drawn lengths: `dialogue`, messages that answer each other; `zeros`;
    `random`; `none`, headers only with the wire length kept."""
    start_ts_ns: int = DEFAULT_START_NS
    """Nanoseconds since 1970-01-01 UTC from which each flow's first inter-arrival counts."""

    def __post_init__(self) -> None:
        for port in self.server_ports:
            if not 1 <= port <= _MOST_PORT:
                raise ConfigError(f"server_ports holds {port}; each is 1 to {_MOST_PORT:,}")
        weights = self.interarrival_weights
        if weights and (len(weights) != 256 or min(weights) < 0 or not sum(weights) > 0):
            raise ConfigError(
                "interarrival_weights must be 256 weights, none negative, not all 0; "
                f"there are {len(weights)}"
            )
        if self.payload not in PAYLOAD_MODES:
            raise ConfigError(
                f"payload is {self.payload!r}; it is one of {', '.join(PAYLOAD_MODES)}"
            )
        if not 576 <= self.most_packet_bytes <= _MOST_BYTES:
            raise ConfigError(
                f"most_packet_bytes is {self.most_packet_bytes:,}; it is 576 to {_MOST_BYTES:,}"
            )
