"""conn.log of Zeek, as tab-separated values and as JSON.

Columns, their order and types, and how values are written are those of Zeek's documentation
(base/protocols/conn/main.zeek, base/frameworks/logging/writers/ascii.zeek). `uid` is the flow's
`flow_id`, and a last column, `label`, is its label.

Shape letters: N flows.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network

import numpy as np

from netdiff_ray.dialogue.kinds import OPAQUE_KINDS
from netdiff_ray.export.connections import (
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)
from netdiff_ray.header_bytes import (
    ICMP_CODE,
    ICMP_TYPE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

COLUMNS = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr",
    "id.resp_p": "port", "proto": "enum", "service": "string", "duration": "interval",
    "orig_bytes": "count", "resp_bytes": "count", "conn_state": "string", "local_orig": "bool",
    "local_resp": "bool", "missed_bytes": "count", "history": "string", "orig_pkts": "count",
    "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count",
    "tunnel_parents": "set[string]", "ip_proto": "count", "label": "string",
}  # fmt: skip
"""Names of the columns and their Zeek types, in order."""
_PROTOCOLS = {
    IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmp",
}  # fmt: skip
_SERVICES = {"tls": "ssl", "smb2": "smb", "gquic": "quic", "dtls": "ssl", "ldap": "ldap_tcp"}
"""Kinds of dialogue whose Zeek service has another name."""
_NOT_SERVICES = frozenset(
    {*OPAQUE_KINDS, "coap", "nbdgm", "nbns", "rtp", "ssdp", "stun", "telnet", "http2"}
)
"""Kinds that no analyzer of Zeek's distribution confirms."""
_LOCAL_NETS = tuple(
    ip_network(net)
    for net in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
        "169.254.0.0/16", "fc00::/7", "fe80::/10", "::1/128",
    )
)  # fmt: skip
"""Private address space, which Zeek takes for local from version 6 on."""
_ICMP_ANSWERS = {
    IPPROTO_ICMP: {8: 0, 13: 14, 15: 16, 17: 18, 10: 9},
    IPPROTO_ICMPV6: {128: 129, 130: 131, 133: 134, 135: 136, 139: 140, 144: 145},
}
"""Types of ICMP messages that answer others, by the type of those."""
_SILENT = (INACTIVE, PARTIAL)
"""States of a side that has not taken part in a handshake."""
_UDP_STATES = {
    (True, True): "SF", (True, False): "S0", (False, True): "SHR", (False, False): "OTH",
}  # fmt: skip
"""conn_state of UDP, by whether the originator and the responder sent."""
_RESET_BEFORE_ANSWER = re.compile("S[^HAFGIQ]*R")
_NOT_PLAIN = re.compile(r"[\t\n\r\\]")


def connection_rows(
    flows: Iterable[dict], connections: np.ndarray, firsts: np.ndarray
) -> Iterator[dict]:
    """Yield the values of COLUMNS of each flow; what Zeek would leave unset is missing.

    Args:
        flows: N rows of FLOW_SCHEMA.
        connections: (N,) CONNECTION.
        firsts: (N,) HEADER_ROW, the first packet of each.
    """
    for flow, connection, packet in zip(flows, connections, firsts, strict=True):
        yield {name: v for name, v in _values(flow, connection, packet).items() if v is not None}


def _values(flow: dict, connection: np.void, packet: np.void) -> dict:
    """Return the values of COLUMNS of a flow, None where Zeek would leave them unset."""
    protocol = flow["protocol"]
    ports = flow["client_port"], flow["server_port"]
    if protocol in _ICMP_ANSWERS:
        ports = _icmp_ports(protocol, packet)
    history = connection["letters"][: connection["num_letters"]].tobytes().decode()
    duration_ns = max(int(connection["last_ns"]) - flow["start_ts_ns"], 0)
    sent = connection["payload_bytes"].tolist() if duration_ns else (None, None)
    packets, ip_bytes = connection["packets"].tolist(), connection["ip_bytes"].tolist()
    return {
        "ts": flow["start_ts_ns"] / 1e9,
        "uid": flow["flow_id"],
        "id.orig_h": flow["client_ip"], "id.orig_p": ports[0],
        "id.resp_h": flow["server_ip"], "id.resp_p": ports[1],
        "proto": _PROTOCOLS.get(protocol, "unknown_transport"),
        "service": _service(flow),
        "duration": duration_ns / 1e9 if duration_ns else None,
        "orig_bytes": sent[0], "resp_bytes": sent[1],
        "conn_state": conn_state(protocol, connection, history),
        "local_orig": _is_local(flow["client_ip"]), "local_resp": _is_local(flow["server_ip"]),
        "missed_bytes": 0,
        "history": history or None,
        "orig_pkts": packets[0], "orig_ip_bytes": ip_bytes[0],
        "resp_pkts": packets[1], "resp_ip_bytes": ip_bytes[1],
        "tunnel_parents": None,
        "ip_proto": protocol,
        "label": flow["label"],
    }  # fmt: skip


def conn_state(protocol: int, connection: np.void, history: str) -> str:
    """Return Zeek's conn_state of a connection."""
    orig, resp = connection["state"].tolist()
    if protocol == IPPROTO_UDP:
        return _UDP_STATES[orig != INACTIVE, resp != INACTIVE]
    if protocol != IPPROTO_TCP:
        return "OTH"
    if RESET in (orig, resp):
        return _state_after_reset(connection, history)
    if CLOSED in (orig, resp):
        return _state_after_end(orig, resp)
    return {(SYN_SENT, INACTIVE): "S0", (ESTABLISHED, ESTABLISHED): "S1"}.get((orig, resp), "OTH")


def _state_after_end(orig: int, resp: int) -> str:
    """Return the conn_state of a TCP connection of which a side is closed and none reset."""
    if orig == resp:
        return "SF"
    if orig == CLOSED:
        return "SH" if resp in _SILENT else "S2"
    return "SHR" if orig in _SILENT else "S3"


def _state_after_reset(connection: np.void, history: str) -> str:
    """Return the conn_state of a TCP connection of which a side has sent a RST."""
    orig, resp = connection["state"].tolist()
    if resp == RESET:
        nothing_sent = orig == RESET and not connection["payload_bytes"].any()
        if nothing_sent or orig in (SYN_SENT, SYN_ACK_SENT):
            return "REJ"
        return "RSTRH" if orig in _SILENT else "RSTR"
    if resp in _SILENT:
        return "RSTOS0" if _RESET_BEFORE_ANSWER.match(history) else "OTH"
    return "RSTO"


def _service(flow: dict) -> str | None:
    """Return the service that Zeek would confirm of a flow's dialogue; None without one."""
    kind = flow["kind"]
    if not flow["has_dialogue"] or not kind or kind in _NOT_SERVICES:
        return None
    return _SERVICES.get(kind, kind)


def _icmp_ports(protocol: int, packet: np.void) -> tuple[int, int]:
    """Return what Zeek gives for the ports of ICMP: the type, and the type that answers it or the
    code."""
    kind, code = int(packet["transport"][ICMP_TYPE]), int(packet["transport"][ICMP_CODE])
    answers = _ICMP_ANSWERS[protocol]
    both = answers | {answer: asked for asked, answer in answers.items()}
    return kind, both.get(kind, code)


@lru_cache(1 << 16)
def _is_local(address: str) -> bool:
    parsed = ip_address(address)
    return any(parsed in net for net in _LOCAL_NETS)


def tsv_head(opened: str) -> bytes:
    """Return the lines that begin a conn.log.

    Args:
        opened: time of its beginning, `YYYY-MM-DD-hh-mm-ss`.
    """
    lines = (
        "#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-",
        "#path\tconn", f"#open\t{opened}", "\t".join(["#fields", *COLUMNS]),
        "\t".join(["#types", *COLUMNS.values()]),
    )  # fmt: skip
    return "".join(f"{line}\n" for line in lines).encode()


def tsv_tail(closed: str) -> bytes:
    """Return the line that ends a conn.log; the argument is as that of `tsv_head`."""
    return f"#close\t{closed}\n".encode()


def tsv_line(row: dict) -> str:
    """Return the line of a connection."""
    return "\t".join(_text(row.get(name), kind) for name, kind in COLUMNS.items()) + "\n"


def json_line(row: dict) -> str:
    """Return the line of a connection as JSON, as Zeek's JSON writer has it."""
    rounded = {name: round(row[name], 6) for name in ("ts", "duration") if name in row}
    return json.dumps(row | rounded, ensure_ascii=False) + "\n"


def _text(value: object, kind: str) -> str:
    if value is None:
        return "-"
    if kind in ("time", "interval"):
        return f"{value:.6f}"
    if kind == "bool":
        return "T" if value else "F"
    text = str(value)
    if not text:
        return "(empty)"
    escaped = _NOT_PLAIN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return f"\\x{ord(escaped[0]):02x}{escaped[1:]}" if escaped in ("-", "(empty)") else escaped
