"""HTTP dialogues, read by h11."""

import h11
import pytest
from exchanges import exchange, stream_exchanges, streams
from hypothesis import given, settings
from hypothesis import strategies as st

from netdiff_ray.dialogue import http


def read_one(parser, stream):
    """Return a stream's first head, whether its message ends, and what is left."""
    parser.receive_data(stream)
    head = None
    while True:
        event = parser.next_event()
        head = head or event
        if event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage):
            return head, event is not h11.NEED_DATA, parser.trailing_data[0]


def read_requests(stream):
    """Return the methods of the requests of a client's stream, and what is left."""
    methods = []
    while stream:
        head, ends, rest = read_one(h11.Connection(h11.SERVER), stream)
        if not ends:
            return methods, stream
        methods.append(bytes(head.method))
        stream = rest
    return methods, stream


def read_responses(stream, methods):
    """Return the statuses of the responses of a server's stream, and what is left."""
    statuses = []
    for method in methods:
        if not stream:
            break
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        head, ends, stream = read_one(parser, stream)
        if ends:
            statuses.append(head.status_code)
    return statuses, stream


@settings(max_examples=300, deadline=None)
@given(
    made=stream_exchanges(
        st.one_of(st.integers(60, 300), st.integers(60, 1500), st.integers(60, 40_000)),
        client_first=True,
    )
)
def test_requests_and_responses_are_read(made):
    written = http.write(made)
    asked, answered = streams(written, made.sides)
    methods, rest = read_requests(asked)
    assert len(methods) == made.sides.count(0)
    assert not rest
    statuses, rest = read_responses(answered, methods)
    assert len(statuses) == made.sides.count(1)
    assert not rest


@pytest.mark.parametrize("length", [*range(18, 200), 1199, 1200, 1201, 1500, 9999, 10_050])
def test_a_request_of_any_length_is_one_request(length):
    for seed in range(8):
        (message,) = http.write(exchange([(0, length)], seed=seed))
        assert read_requests(message)[0] in ([b"GET"], [b"POST"])


def test_short_messages_go_on_with_the_last():
    made = exchange([(0, 100), (1, 300), (0, 3), (1, 5), (0, 1), (1, 400)])
    asked, answered = streams(http.write(made), made.sides)
    assert asked.count(b" HTTP/1.") == 1
    assert answered.count(b"HTTP/1.1 ") == 1


def test_a_server_that_speaks_first_is_not_http():
    assert http.write(exchange([(1, 200), (0, 100)])) is None


def test_a_server_alone_answers():
    (answer,) = http.write(exchange([(1, 200)], is_tcp=True))
    assert read_responses(answer, [b"GET"])[0]
