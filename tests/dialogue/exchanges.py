"""Made exchanges, for the tests of dialogues."""

from hypothesis import strategies as st

from netdiff_ray.dialogue import Exchange

START_NS = 1_700_000_000_000_000_000
LENGTHS = st.one_of(st.integers(1, 60), st.integers(1, 1500), st.integers(1, 70_000))
DATAGRAMS = st.integers(1, 1500)


def exchange(messages, *, seed=1, server_port=80, client_port=50_000, is_tcp=False):
    """Return an exchange of (side, length) pairs."""
    return Exchange(
        sides=tuple(side for side, _ in messages), lengths=tuple(size for _, size in messages),
        ts_ns=tuple(START_NS + k * 10**7 for k in range(len(messages))), seed=seed,
        client=bytes([10, 0, 0, 1]), server=bytes([172, 16, 0, 1]),
        client_port=client_port, server_port=server_port, is_tcp=is_tcp,
    )  # fmt: skip


@st.composite
def stream_exchanges(draw, lengths=LENGTHS, *, client_first=False, most=20):
    """Return an exchange over TCP, in which sides take turns."""
    sizes = draw(st.lists(lengths, min_size=1, max_size=most))
    first = 0 if client_first else draw(st.integers(0, 1))
    seed = draw(st.integers(0, 2**64 - 1))
    return exchange(
        [((first + k) % 2, size) for k, size in enumerate(sizes)], seed=seed, is_tcp=True
    )


@st.composite
def datagram_exchanges(draw, lengths=DATAGRAMS, most=20):
    """Return an exchange over UDP, in any order of sides."""
    messages = draw(st.lists(st.tuples(st.integers(0, 1), lengths), min_size=1, max_size=most))
    return exchange(messages, seed=draw(st.integers(0, 2**64 - 1)))


def streams(written, sides):
    """Return the bytes of the client and of the server."""
    return tuple(
        b"".join(m for m, s in zip(written, sides, strict=True) if s == side) for side in (0, 1)
    )
