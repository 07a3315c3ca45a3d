"""The scenario of a recording, drawn from its seed: hosts, their stacks and their links.

Draws depend on the seed and on the index alone, not on the label: a client keeps its TTL,
its MTU and its delay whatever program it runs, so that none of them gives a label away.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Kernel settings of one host."""

    ttl: int
    """Initial IPv4 TTL and IPv6 hop limit."""
    mtu_bytes: int
    """MTU of the host's device; the MSS follows from it."""
    advmss_bytes: int
    """MSS announced where it is less than the MTU allows; 0 for what the MTU allows."""
    quickack: bool
    """Acknowledge every segment at once."""
    timestamps: bool
    """TCP timestamps (RFC 7323)."""
    sack: bool
    """Selective acknowledgements (RFC 2018)."""
    window_scaling: bool
    """TCP window scale option (RFC 7323)."""
    rmem_default_bytes: int
    """Receive buffer a socket begins with; decides the first window."""
    rmem_max_bytes: int
    """Largest receive buffer; decides the window scale."""
    congestion: str
    """Congestion control."""
    ecn: int
    """net.ipv4.tcp_ecn: 0 never, 1 request it, 2 accept it."""
    initcwnd_packets: int
    """Initial congestion window."""
    first_port: int
    """Lowest ephemeral port."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """The network between a host and the routers where traffic is captured."""

    delay_ms: float
    """One-way delay, each way."""
    jitter_ms: float
    """Mean of the random (exponential) addition to the delay; at most 2.5 times it."""
    up_kbit: int
    """Rate from the host, kbit/s."""
    down_kbit: int
    """Rate to the host, kbit/s."""
    queue_ms: float
    """Longest wait in front of the rate; what would wait longer is dropped."""
    loss: float
    """Share of loss events."""
    burst: float
    """Chance that one more packet is lost after a lost one."""
    reorder: float
    """Share of packets held back while later ones pass."""
    hops: int
    """Routers on the way: subtracted from the TTL."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client host."""

    index: int
    stack: Stack
    link: Link
    v4: str
    v6: str


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server host; it runs the server programs of whatever label is recorded."""

    index: int
    stack: Stack
    link: Link
    v4: str
    v6: str
    names_v4: tuple[str, ...]
    """Names that resolve to `v4` alone."""
    names_v6: tuple[str, ...]
    """Names that resolve to `v6` alone."""
    key: str
    """Kind of its TLS key, as openssl's -newkey or -algorithm says it."""
    tls12_only: bool

    def address(self, family: int) -> str:
        """Return the host's address of that family, 4 or 6."""
        return self.v4 if family == 4 else self.v6

    def names(self, family: int) -> tuple[str, ...]:
        """Return the host's names of that family, 4 or 6."""
        return self.names_v4 if family == 4 else self.names_v6


WORDS = (
    "alder",
    "amber",
    "apex",
    "arbor",
    "atlas",
    "birch",
    "canal",
    "cedar",
    "cloud",
    "cobalt",
    "coral",
    "delta",
    "depot",
    "drift",
    "ember",
    "fable",
    "field",
    "fjord",
    "flint",
    "forge",
    "garden",
    "glade",
    "grove",
    "harbor",
    "hazel",
    "heron",
    "hill",
    "island",
    "ivory",
    "juniper",
    "lake",
    "lantern",
    "larch",
    "linden",
    "maple",
    "meadow",
    "mill",
    "moss",
    "north",
    "oak",
    "ocean",
    "orchard",
    "otter",
    "paper",
    "pebble",
    "pine",
    "plaza",
    "quarry",
    "raven",
    "reed",
    "ridge",
    "river",
    "rowan",
    "sable",
    "shore",
    "slate",
    "spruce",
    "stone",
    "summit",
    "thistle",
    "timber",
    "valley",
    "velvet",
    "willow",
    "winter",
)
SERVICES = ("", "www", "m", "cdn", "api", "static", "edge-3", "media", "eu-west.edge", "app")


def draw_stack(rng: random.Random) -> Stack:
    """Draw a host's kernel settings."""
    return Stack(
        ttl=rng.choices((64, 128, 255), (5, 3, 2))[0],
        mtu_bytes=rng.choices(
            (1500, 1492, 1480, 1460, 1420, 1400, 1360, 1280), (8, 3, 2, 2, 2, 2, 1, 1)
        )[0],
        advmss_bytes=rng.choices((0, 1380, 1300, 1220, 960, 536), (7, 2, 2, 2, 1, 1))[0],
        quickack=rng.random() < 0.3,
        timestamps=rng.random() < 0.7,
        sack=rng.random() < 0.85,
        window_scaling=rng.random() < 0.92,
        rmem_default_bytes=rng.choice((16384, 32768, 43690, 65536, 87380, 131072, 131072)),
        rmem_max_bytes=rng.choice((1, 2, 4, 6, 8, 16, 32)) << 20,
        congestion=rng.choices(("cubic", "reno", "bbr"), (6, 2, 2))[0],
        ecn=rng.choices((0, 1, 2), (2, 3, 5))[0],
        initcwnd_packets=rng.choice((4, 10, 10, 10, 16, 20)),
        first_port=rng.choice((1024, 32768, 49152)),
    )


def draw_client_link(rng: random.Random) -> Link:
    """Draw a client's link: from the same town to far away, over busy radio."""
    return Link(
        delay_ms=50 ** rng.random(),
        jitter_ms=rng.uniform(5, 14),
        up_kbit=int(1500 * (40 ** rng.random())),
        down_kbit=int(4000 * (25 ** rng.random())),
        queue_ms=rng.uniform(15, 40),
        loss=rng.choices((0.0, 0.002, 0.006, 0.015), (3, 3, 3, 2))[0],
        burst=rng.choice((0.0, 0.0, 0.3, 0.5)),
        reorder=rng.choice((0.0, 0.0, 0.003, 0.01)),
        hops=rng.randint(2, 22),
    )


def draw_server_link(rng: random.Random) -> Link:
    """Draw a server's link: short and wide, but busy."""
    rate_kbit = int(40_000 * (10 ** rng.random()))
    return Link(
        delay_ms=0.4 * 40 ** rng.random(),
        jitter_ms=rng.uniform(5, 13),
        up_kbit=rate_kbit,
        down_kbit=rate_kbit,
        queue_ms=40,
        burst=0.0,
        reorder=0.0,
        loss=rng.choice((0.0, 0.0, 0.001)),
        hops=rng.randint(0, 5),
    )


def draw_name(rng: random.Random) -> str:
    """Draw a host name under .example (RFC 2606), of varying length."""
    parts = [rng.choice(SERVICES), "-".join(rng.sample(WORDS, rng.randint(1, 3))), "example"]
    return ".".join(part for part in parts if part)


def draw_clients(seed: str, count: int) -> list[Client]:
    """Draw the clients of a run."""
    clients = []
    for index in range(count):
        rng = random.Random(f"{seed}/client/{index}")
        net, host = rng.randint(16, 95), rng.randint(2, 250)
        clients.append(
            Client(
                index=index,
                stack=draw_stack(rng),
                link=draw_client_link(rng),
                v4=f"10.{net}.{index}.{host}",
                v6=f"fd{net:02x}:{rng.randint(1, 65535):x}:{index:x}::"
                f"{rng.randint(2, 65535):x}:{host:x}",
            )
        )
    return clients


def draw_servers(seed: str, count: int) -> list[Server]:
    """Draw the servers of a run."""
    servers = []
    for index in range(count):
        rng = random.Random(f"{seed}/server/{index}")
        net, host = rng.randint(128, 250), rng.randint(2, 250)
        names = sorted({draw_name(rng) for _ in range(40)})
        rng.shuffle(names)
        servers.append(
            Server(
                index=index,
                stack=draw_stack(rng),
                link=draw_server_link(rng),
                v4=f"10.{net}.{index}.{host}",
                v6=f"fd{net:02x}:{rng.randint(1, 65535):x}:{index:x}::{host:x}",
                names_v4=tuple(names[:10]),
                names_v6=tuple(names[10:20]),
                key=("rsa:2048", "ec:prime256v1", "rsa:4096", "ec:secp384r1", "rsa:3072")[
                    (index + rng.randint(0, 1)) % 5
                ],
                tls12_only=index % 3 == 2,
            )
        )
    return servers
