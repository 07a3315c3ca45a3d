"""Protocols of lines of text: commands of a client, and replies of a server to each."""

from collections import deque
from collections.abc import Callable
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import answer_bytes, fill_streams, next_of_sender, words

END = b"\r\n"
HOSTS = (b"mail.example.net", b"mx1.example.org", b"example.com", b"srv2.example.net")
PEOPLE = (b"alice", b"bob", b"carol", b"dave", b"erin", b"frank")


def write_lines(
    exchange: Exchange,
    command: Callable[[int, int, int, int], tuple[bytes, object]],
    reply: Callable[[int, object], bytes],
) -> list[bytes]:
    """Return the messages of a connection.

    Args:
        command: gives a command and what it is to the server, from the room for it, the bytes of
            the answer and those of the sender's next message, and the message's number.
        reply: gives a reply that fills the room for it, or less if more replies are due; to None
            where nothing was asked: a greeting, or more of the last reply.
    """
    answer, ahead = answer_bytes(exchange), next_of_sender(exchange)
    waiting: deque[object] = deque()

    def frame(k: int, side: int, rest: int) -> bytes:
        if side == 0:
            data, kind = command(rest, answer[k], ahead[k], k)
            waiting.append(kind)
            return data
        kind = waiting.popleft() if waiting else None
        # of several commands in a message, all but the last are answered shortly
        if waiting and rest > 40:
            return reply(20, kind)
        return reply(rest, kind)

    return fill_streams(exchange, frame)


def line(random: Random, begin: bytes, size: int) -> bytes:
    """Return a line of `size` bytes, or a longer one where that is shorter than its begin."""
    room = size - len(begin) - len(END)
    if room <= 0:
        return (begin if room == 0 else begin.rstrip()) + END
    if begin[-1:].isalnum():
        begin, room = begin + b" ", room - 1
    return begin + words(random, room) + END


def text_lines(random: Random, size: int, width: int = 72) -> bytes:
    """Return lines of words of `size` bytes together, at least 2."""
    if size <= width:
        return words(random, size - len(END)) + END
    count = -(-size // (width + len(END)))
    text = bytearray(words(random, size))
    for k in range(1, count):
        at = k * (size // count)
        text[at - 2 : at] = END
    text[-2:] = END
    return bytes(text)


def mailbox(random: Random, size: int) -> bytes:
    """Return a mail address of `size` bytes, at least 1; of a user alone if it is short."""
    host = b"@" + random.choice(HOSTS)
    if size <= len(host):
        host = b"@example.net" if size > len(b"@example.net") else b""
    name = random.choice(PEOPLE) + b"." + words(random, size).replace(b" ", b".")
    name = name[: size - len(host)]
    return (name[:-1] + b"x" if name[-1:] == b"." else name) + host


def mail(random: Random, size: int) -> bytes:
    """Return a mail of `size` bytes, at least 2: headers and text, or text alone if it is short."""
    head = b"From: <" + random.choice(PEOPLE) + b"@example.net>\r\n"
    if size < len(head) + 40:
        return text_lines(random, size)
    if size > 300:
        head += b"To: <" + random.choice(PEOPLE) + b"@example.org>\r\n"
    head += line(random, b"Subject: ", 30) + END
    return head + text_lines(random, size - len(head))
