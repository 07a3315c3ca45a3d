"""Connections of slow clients to a uvicorn with the deadline, over real sockets."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from netdiff_ray.serving import slow_clients
from netdiff_ray.serving.slow_clients import HeadDeadline, HeadDeadlineProtocol

DEADLINE, SLOW_ANSWER = 0.5, 1.0
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(scope, receive, send):
    """Answer at once, at /slow after a second, at /body when the body is there."""
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW_ANSWER)
    while scope["path"] == "/body" and (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", b"2")]})  # fmt: skip
    await send({"type": "http.response.body", "body": b"ok"})


class H11(HeadDeadline, H11Protocol):
    head_seconds = DEADLINE


class HttpTools(HeadDeadline, HttpToolsProtocol):
    head_seconds = DEADLINE


@pytest.fixture(scope="module", params=[H11, HttpTools])
def port(request):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(answer, http=request.param, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def until_closed(connection):
    """Return what comes until the server closes a connection, and the seconds until then."""
    began, content = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            content += part
    return content, time.monotonic() - began


def drip(connections, seconds):
    """Send a byte of a head on each connection now and then; return how many are still open."""
    end, left = time.monotonic() + seconds, list(connections)
    while left and time.monotonic() < end:
        for connection in list(left):
            try:
                connection.sendall(b"x")
            except OSError:
                left.remove(connection)
        time.sleep(0.05)
    return len(left)


def test_heads_that_drip_are_cut_off(port):
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(60)]
        for connection in connections:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert drip(connections, 4 * DEADLINE) == 0


def test_a_head_that_stops_gets_a_408(port):
    with connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        content, seconds = until_closed(connection)
    assert content.startswith(b"HTTP/1.1 408 ")
    assert 0.5 * DEADLINE < seconds < 10 * DEADLINE


def test_a_connection_without_a_byte_is_closed_without_a_word(port):
    with connect(port) as connection:
        content, seconds = until_closed(connection)
    assert content == b""
    assert 0.5 * DEADLINE < seconds < 10 * DEADLINE


def test_a_second_head_that_drips_is_cut_off(port):
    with connect(port) as connection:
        connection.sendall(HEAD)
        assert connection.recv(4096).endswith(b"ok")
        connection.sendall(b"GET / HT")
        assert drip([connection], 4 * DEADLINE) == 0


@pytest.mark.parametrize("path", [b"/", b"/slow"])
def test_a_body_that_drips_after_the_answer_is_cut_off(port, path):
    with connect(port) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n" % path
        )
        assert connection.recv(4096).endswith(b"ok")
        assert drip([connection], 4 * DEADLINE) == 0


def test_long_answers_slow_bodies_and_pauses_between_requests_are_not_cut_off(port):
    with connect(port) as connection:
        for request in (HEAD, HEAD.replace(b"/ ", b"/slow ", 1)):
            connection.sendall(request)
            assert connection.recv(4096).endswith(b"ok")
            time.sleep(1.2 * DEADLINE)
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n")
        for _ in range(10):  # slowly, which is for the application to judge
            connection.sendall(b"xx")
            time.sleep(DEADLINE / 7)
        assert connection.recv(4096).endswith(b"ok")


def test_servers_made_after_installing_have_the_deadline(monkeypatch):
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "before")
    assert slow_clients.install() == []
    config = uvicorn.Config(answer)
    config.load()
    assert config.http_protocol_class is HeadDeadlineProtocol
