"""The names and addresses that payloads tell: DNS messages, TLS ClientHello, HTTP requests.

Formats: RFC 1035, 4 (DNS), RFC 8446, 4.1.2 and RFC 6066, 3 (server_name), RFC 9112, 3.2 (Host).
Names are hashed; whatever is cut or malformed has none.
"""

from typing import NamedTuple

import numpy as np

NO_NAME = 0
_FNV_START, _FNV_PRIME, _WORD = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_DNS_HEADER_BYTES, _RECORD_BYTES = 12, 10
_POINTER = 0xC0
_TYPE_A, _TYPE_AAAA = 1, 28
_ADDRESS_BYTES = {_TYPE_A: 4, _TYPE_AAAA: 16}
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0
_MOST_RECORDS = 64


class DnsMessage(NamedTuple):
    """What counts of a DNS message."""

    is_answer: bool
    name: int
    """Hash of the name that is asked for."""
    addresses: tuple[int, ...]
    """Hashes of the addresses of its answers."""


def hashed(content: bytes) -> int:
    """Return the FNV-1a hash of bytes, never NO_NAME."""
    value = _FNV_START
    for byte in content:
        value = ((value ^ byte) * _FNV_PRIME) & _WORD
    return value or 1


def hashed_rows(rows: np.ndarray) -> np.ndarray:
    """Return (N,) uint64: `hashed` of each of (N, B) uint8."""
    value = np.full(len(rows), _FNV_START, np.uint64)
    with np.errstate(over="ignore"):
        for k in range(rows.shape[1]):
            value = (value ^ rows[:, k].astype(np.uint64)) * np.uint64(_FNV_PRIME)
    return np.where(value == 0, np.uint64(1), value)


def name_hash(name: bytes) -> int:
    """Return the hash of a host name, whatever its case; NO_NAME of none."""
    name = name.strip().rstrip(b".").lower()
    return hashed(name) if name else NO_NAME


def dns_message(payload: bytes) -> DnsMessage | None:
    """Return what a DNS message says; None if it is none, or asks for nothing."""
    if len(payload) < _DNS_HEADER_BYTES or not _u16(payload, 4):
        return None
    labels, at = [], _DNS_HEADER_BYTES
    while at < len(payload) and payload[at]:
        size = payload[at]
        if size >= _POINTER or at + 1 + size > len(payload):
            return None
        labels.append(payload[at + 1 : at + 1 + size])
        at += 1 + size
    at += 5  # the root, type and class
    is_answer = bool(payload[2] & 0x80)
    addresses = []
    for _ in range(min(_u16(payload, 6), _MOST_RECORDS) if is_answer else 0):
        at = _after_name(payload, at)
        if at + _RECORD_BYTES > len(payload):
            break
        kind, size = _u16(payload, at), _u16(payload, at + 8)
        at += _RECORD_BYTES
        if size == _ADDRESS_BYTES.get(kind) and at + size <= len(payload):
            addresses.append(hashed(payload[at : at + size]))
        at += size
    return DnsMessage(is_answer, name_hash(b".".join(labels)), tuple(addresses))


def _after_name(payload: bytes, at: int) -> int:
    """Return the position after the name at payload[at], which may end in a pointer."""
    while at < len(payload) and payload[at]:
        if payload[at] >= _POINTER:
            return at + 2
        at += 1 + payload[at]
    return at + 1


def requested_name(payload: bytes) -> int:
    """Return the hash of the name that a ClientHello or an HTTP request is for, else NO_NAME."""
    if payload[:1] == bytes([_HANDSHAKE]):
        return _server_name(payload)
    lines = payload.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    for line in lines[1:] if b" HTTP/1" in lines[0] else ():
        if line[:5].lower() == b"host:":
            host = line[5:].strip()
            return name_hash(host if host.startswith(b"[") else host.split(b":")[0])
    return NO_NAME


def _server_name(payload: bytes) -> int:
    """Return the hash of the server_name of a ClientHello in one record."""
    if len(payload) < 44 or payload[5] != _CLIENT_HELLO:
        return NO_NAME
    at = 43  # record, handshake, version, random
    at += 1 + payload[at]
    at += 2 + _u16(payload, at)
    at += 1 + (payload[at] if at < len(payload) else 0)
    at += 2
    while at + 4 <= len(payload):
        kind, size = _u16(payload, at), _u16(payload, at + 2)
        if kind == _SERVER_NAME and size >= 5 and at + 4 + size <= len(payload):
            return name_hash(payload[at + 9 : at + 9 + _u16(payload, at + 7)])
        at += 4 + size
    return NO_NAME


def _u16(payload: bytes, at: int) -> int:
    return int.from_bytes(payload[at : at + 2], "big")
