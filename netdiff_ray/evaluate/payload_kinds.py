"""What a payload is, and which message of a handshake, from its first bytes.

Shape letters: P packets, B bytes.
"""

import numpy as np

from netdiff_ray.evaluate.payload_rows import DNS_PORT
from netdiff_ray.header_bytes import DPORT, IPPROTO_TCP, IPPROTO_UDP, SPORT, words16

KINDS = (
    "empty", "TLS handshake", "TLS application data", "HTTP", "SSH banner", "SIP",
    "MQTT CONNECT", "STUN", "QUIC long header", "QUIC short header or other", "DNS", "RTP",
    "Modbus", "words", "other bytes",
)  # fmt: skip
"""Kinds of payloads; of those that fit, the earliest."""
NOT_CAPTURED = len(KINDS)
"""The kind of a payload that the capture left out."""

HTTPS_PORT, MODBUS_PORT, MQTT_PORT = 443, 502, 1883
_WORD_BYTES = 16
_HTTP = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC")
_SIP = (b"INVI", b"REGI", b"OPTI", b"BYE ", b"ACK ", b"NOTI", b"SUBS", b"MESS", b"CANC")
_QUIC_VERSIONS = (b"\0\0\0\x01", b"\x6b\x33\x43\xcf", b"\xff\0\0", b"Q0", b"T05")
"""RFC 9000, RFC 9369, the drafts, and Google's before them."""
_FNV_PRIME = 0x100000001B3
_STUN_COOKIE = bytes.fromhex("2112a442")

HANDSHAKES = {
    "TLS": ("TLS ClientHello", "TLS secured"),
    "QUIC": ("QUIC long header",),
    "SSH": ("SSH banner",),
    "HTTP": ("HTTP request",),
    "SIP": ("SIP request",),
    "STUN": ("STUN request",),
    "MQTT": ("MQTT CONNECT",),
    "Modbus": ("Modbus message",),
}
"""Messages that the opening side sends in a handshake that is complete."""
ANSWERS = {
    "TLS": ("TLS ServerHello",),
    "QUIC": ("QUIC long header",),
    "SSH": ("SSH banner",),
    "HTTP": ("HTTP response",),
    "SIP": ("SIP response",),
    "STUN": ("STUN response",),
    "MQTT": ("MQTT CONNACK",),
    "Modbus": ("Modbus message",),
}
"""Messages that the other side sends in it; those of STUN and Modbus answer a request of the
same transaction."""
MESSAGES = tuple(
    dict.fromkeys(m for sides in (HANDSHAKES, ANSWERS) for names in sides.values() for m in names)
)


def payload_kinds(rows: np.ndarray) -> np.ndarray:
    """Return (P,) uint8: the kind of each of (P,) PAYLOAD_ROW, an index into KINDS."""
    head, is_tcp = rows["head"], rows["protocol"] == IPPROTO_TCP
    is_udp = rows["protocol"] == IPPROTO_UDP
    letters = ((head >= ord("a")) & (head <= ord("z"))) | (head == ord(" "))
    inside = np.arange(head.shape[1]) < np.minimum(rows["head_bytes"], _WORD_BYTES)[:, None]
    on_https = is_udp & _on_port(rows, HTTPS_PORT)
    conditions = {
        "empty": rows["payload_bytes"] == 0,
        "TLS handshake": is_tcp & _begins(rows, b"\x16"),
        "TLS application data": is_tcp & _begins(rows, b"\x17\x03"),
        "HTTP": _begins(rows, *_HTTP, b"HTTP"),
        "SSH banner": _begins(rows, b"SSH-"),
        "SIP": _begins(rows, *_SIP, b"SIP/"),
        "MQTT CONNECT": _on_port(rows, MQTT_PORT) & _begins(rows, b"\x10"),
        "STUN": is_udp & _is_stun(rows),
        "QUIC long header": on_https & (head[:, 0] >= 0x80),
        "QUIC short header or other": on_https,
        "DNS": is_udp & _on_port(rows, DNS_PORT),
        "RTP": is_udp & _begins(rows, b"\x80"),
        "Modbus": _is_modbus(rows),
        "words": (letters | ~inside).all(axis=1),
    }
    codes = [KINDS.index(name) for name in conditions]
    kinds = np.select(list(conditions.values()), codes, KINDS.index("other bytes"))
    unseen = (rows["payload_bytes"] > 0) & (rows["head_bytes"] == 0)
    return np.where(unseen, NOT_CAPTURED, kinds).astype(np.uint8)


def payload_messages(rows: np.ndarray) -> np.ndarray:
    """Return (P,) int64: bits of the MESSAGES that each of (P,) PAYLOAD_ROW can be."""
    head, is_tcp = rows["head"], rows["protocol"] == IPPROTO_TCP
    record = is_tcp & (head[:, 1] == 3) & (rows["head_bytes"] > 5)  # RFC 8446, 5.1
    stun = (rows["protocol"] == IPPROTO_UDP) & _is_stun(rows)
    conditions = {
        "TLS ClientHello": record & (head[:, 0] == 22) & (head[:, 5] == 1),
        "TLS ServerHello": record & (head[:, 0] == 22) & (head[:, 5] == 2),
        "TLS secured": record & ((head[:, 0] == 20) | (head[:, 0] == 23)),
        "QUIC long header": (rows["protocol"] == IPPROTO_UDP)
        & _on_port(rows, HTTPS_PORT)
        & ((head[:, 0] & 0xC0) == 0xC0)
        & _begins(rows, *_QUIC_VERSIONS, at=1),
        "SSH banner": _begins(rows, b"SSH-"),
        "HTTP request": _begins(rows, *_HTTP),
        "HTTP response": _begins(rows, b"HTTP"),
        "SIP request": _begins(rows, *_SIP),
        "SIP response": _begins(rows, b"SIP/"),
        "STUN request": stun & (head[:, 0] == 0) & (head[:, 1] == 1),
        "STUN response": stun & (head[:, 0] == 1) & (head[:, 1] == 1),
        "MQTT CONNECT": is_tcp & _on_port(rows, MQTT_PORT) & _begins(rows, b"\x10"),
        "MQTT CONNACK": is_tcp & _on_port(rows, MQTT_PORT) & _begins(rows, b"\x20"),
        "Modbus message": _is_modbus(rows),
    }
    messages = np.zeros(len(rows), np.int64)
    for name, is_message in conditions.items():
        messages |= is_message.astype(np.int64) << MESSAGES.index(name)
    return messages


def transactions(rows: np.ndarray) -> np.ndarray:
    """Return (P,) int64: what ties a DNS, STUN or Modbus answer to its request, 0 for others."""
    head = rows["head"].astype(np.int64)
    identifier = (head[:, 0] << 8 | head[:, 1]) + 1
    is_dns = (rows["protocol"] == IPPROTO_UDP) & _on_port(rows, DNS_PORT) & _is_dns_sized(rows)
    stun = np.zeros(len(rows), np.int64)
    for at in range(8, 20):  # the 96 bits of RFC 8489, 5, hashed
        stun = (stun * _FNV_PRIME) ^ head[:, at]
    conditions = [is_dns, (rows["protocol"] == IPPROTO_UDP) & _is_stun(rows), _is_modbus(rows)]
    return np.select(conditions, [identifier, stun | 1 << 62, identifier], 0)


def dns_answers(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (P,) bool: whether each is a DNS query, an answer, and an answer with records."""
    head = rows["head"]
    is_dns = (rows["protocol"] == IPPROTO_UDP) & _on_port(rows, DNS_PORT) & _is_dns_sized(rows)
    answers = is_dns & ((head[:, 2] & 0x80) > 0)  # RFC 1035, 4.1.1: QR, ANCOUNT
    return is_dns & ~answers, answers, answers & (words16(head, 6) > 0)


def _is_dns_sized(rows: np.ndarray) -> np.ndarray:
    return rows["head_bytes"] >= 12


def _begins(rows: np.ndarray, *starts: bytes, at: int = 0) -> np.ndarray:
    """Return (P,) bool: whether payloads have any of some bytes at an offset."""
    result = np.zeros(len(rows), np.bool_)
    for start in starts:
        end = at + len(start)
        same = rows["head"][:, at:end] == np.frombuffer(start, np.uint8)
        result |= same.all(axis=1) & (rows["head_bytes"] >= end)
    return result


def _on_port(rows: np.ndarray, port: int) -> np.ndarray:
    """Return (P,) bool: whether either port is `port`."""
    transport = rows["transport"]
    return (words16(transport, SPORT) == port) | (words16(transport, DPORT) == port)


def _is_stun(rows: np.ndarray) -> np.ndarray:
    """Return (P,) bool: whether payloads hold the magic cookie (RFC 8489, 5)."""
    cookie = np.frombuffer(_STUN_COOKIE, np.uint8)
    return (rows["head"][:, 4:8] == cookie).all(axis=1) & (rows["head_bytes"] >= 20)


def _is_modbus(rows: np.ndarray) -> np.ndarray:
    """Return (P,) bool: whether payloads begin with a Modbus header of protocol 0."""
    head = rows["head"]
    is_zero = (head[:, 2] == 0) & (head[:, 3] == 0) & (rows["head_bytes"] >= 8)
    return (rows["protocol"] == IPPROTO_TCP) & _on_port(rows, MODBUS_PORT) & is_zero
