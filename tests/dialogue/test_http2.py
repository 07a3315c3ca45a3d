"""HTTP/2: both ends of another implementation take every frame."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import exchange_of

from netdiff_ray.dialogue import http2

CHANGE = b"HTTP/1.1 101 "
ROOMY = {SettingCodes.INITIAL_WINDOW_SIZE: 2**30}
"""What servers of these dialogues allow on a stream."""


def read(exchange, written):
    """Return the events that a client sees which asks and allows the same, and those of the server
    that it asks."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    server.local_settings = Settings(client=False, initial_values=ROOMY)
    seen = ([], [])
    is_offered = written[0].startswith(b"GET")
    if is_offered:
        lines = written[0].split(b"\r\n")
        field = next(line for line in lines if line.startswith(b"HTTP2-Settings: "))
        server.initiate_upgrade_connection(field.partition(b": ")[2])
        client.local_settings = Settings(initial_values=dict(server.remote_settings))
        client.initiate_upgrade_connection()
    for k, (side, message) in enumerate(zip(exchange.sides, written, strict=True)):
        if is_offered and k < 2:
            if k == 1:
                assert message.startswith(CHANGE)
                seen[0].extend(client.receive_data(message.partition(b"\r\n\r\n")[2]))
            continue
        if side == 0:
            events = server.receive_data(message)
            if k == 0:
                client.local_settings = Settings(initial_values=dict(server.remote_settings))
                client.initiate_connection()
            for event in events:
                mirror(client, event)
            seen[1].extend(events)
        else:
            events = client.receive_data(message)
            for event in of_type(events, WindowUpdated):
                mirror(server, event)
            seen[0].extend(events)
    return seen


def mirror(client, event):
    """Have an endpoint do what the other one saw."""
    if isinstance(event, RequestReceived):
        client.send_headers(event.stream_id, event.headers, end_stream=bool(event.stream_ended))
    elif isinstance(event, DataReceived) and event.stream_ended:
        client.end_stream(event.stream_id)
    elif isinstance(event, WindowUpdated) and event.stream_id == 0:
        client.increment_flow_control_window(event.delta)
    elif isinstance(event, RemoteSettingsChanged):
        client.update_settings({k: v.new_value for k, v in event.changed_settings.items()})


def of_type(events, kind):
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize(
    ("pattern", "requests"),
    [
        ("64 -27 160 -5000", 1), ("230 -9 -700", 1), ("200 -900 9 -40 60 -3000 70 -200000 22", 3),
        ("64 -40 9 -9 120 -500 13 -70000 17 -17", 1), ("110 -60 40 -80", 2),
        ("64 -45 3000 -60 17", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(6))
def test_requests_are_answered_on_their_streams(pattern, requests, seed):
    exchange = exchange_of(pattern.replace("-9 -700", "-709"), 8080, seed=seed, is_tcp=True)
    written = http2.write(exchange)
    assert tuple(map(len, written)) == exchange.lengths
    of_client, of_server = read(exchange, written)
    asked = [e.stream_id for e in of_type(of_server, RequestReceived)]
    is_offered = written[0].startswith(b"GET")
    assert len(asked) == len(set(asked)) >= requests - is_offered
    answered = [e.stream_id for e in of_type(of_client, ResponseReceived)]
    assert answered == [1] * is_offered + asked


@settings(max_examples=150)
@given(
    sizes=st.lists(st.one_of(st.integers(9, 40), st.integers(20, 900), st.integers(100, 60_000)),
                   min_size=1, max_size=12),
    first=st.integers(33, 700), seed=st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_any_lengths_are_read_without_an_error(sizes, first, seed):
    pattern = " ".join(str(-n if k % 2 else n) for k, n in enumerate([first, *sizes]))
    exchange = exchange_of(pattern, 8080, seed=seed, is_tcp=True)
    written = http2.write(exchange)
    if written is None:
        return
    assert tuple(map(len, written)) == exchange.lengths
    read(exchange, written)
