"""What a flow speaks, told from the first bytes of its first payloads.

Shape letters: P packets, W windows.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP

SIGNS = (
    "", "opaque", "tls", "http", "websocket", "ssh", "sip", "mqtt", "modbus", "smtp", "pop3",
    "imap", "ftp", "postgresql", "redis", "ldap", "rdp", "smb2", "dns", "quic", "stun", "dtls",
    "rtp", "ntp", "dhcp", "snmp", "ssdp", "syslog", "http2", "telnet", "coap", "nbns", "nbdgm",
    "text", "binary", "gquic", "mgcp",
)  # fmt: skip
"""Kinds that payloads show, "" where nothing of them was captured; codes are positions here."""
(
    _UNSEEN, _OPAQUE, _TLS, _HTTP, _WEBSOCKET, _SSH, _SIP, _MQTT, _MODBUS, _SMTP, _POP3, _IMAP,
    _FTP, _POSTGRESQL, _REDIS, _LDAP, _RDP, _SMB2, _DNS, _QUIC, _STUN, _DTLS, _RTP, _NTP, _DHCP,
    _SNMP, _SSDP, _SYSLOG, _HTTP2, _TELNET, _COAP, _NBNS, _NBDGM, _TEXT, _BINARY,
    _GQUIC, _MGCP,
) = range(len(SIGNS))  # fmt: skip

PAYLOADS = 6
"""Payloads of a window from which its kind is told."""


def _word(text: bytes) -> int:
    return int.from_bytes(text[:4])


_METHODS = np.array(
    [_word(w) for w in (b"GET ", b"POST", b"HEAD", b"PUT ", b"CONN", b"DELE", b"PATC", b"HTTP")]
)
_SIP_WORDS = np.array(
    [_word(w) for w in (b"INVI", b"REGI", b"SIP/", b"SUBS", b"NOTI", b"BYE ", b"ACK ", b"MESS")]
)
_MGCP_WORDS = np.array(
    [
        _word(w)
        for w in (b"RSIP", b"NTFY", b"RQNT", b"AUEP", b"AUCX", b"CRCX", b"MDCX", b"DLCX", b"EPCF")
    ]
)
_OPTIONS, _SSH_WORD, _HELLO, _OLD_HELLO = (_word(w) for w in (b"OPTI", b"SSH-", b"EHLO", b"HELO"))
_READY, _OK, _STAR_OK = _word(b"220 "), _word(b"+OK "), _word(b"* OK")
_SEARCH, _NOTIFY = _word(b"M-SEARCH"), _word(b"NOTIFY *")
_SMB_2 = _word(b"\xfeSMB")
_STARTUPS = np.array([0x00030000, 80_877_103])
"""Protocol 3.0 of PostgreSQL, and its request for TLS."""
_SCHEMES = np.array([_word(b"sip:"), _word(b"sips")])
_COMMANDS, _LAST_OPTION = (0xFB, 0xFE), 50
"""Of Telnet: what is said of options, and the largest in use."""
_MOST_COUNTED, _FEWEST_COUNTED = 64, 16
"""Bytes of a payload whose values are counted; of a shorter one nothing is said."""
_STUN_COOKIE, _DHCP_COOKIE = 0x2112A442, 0x63825363
_UPGRADE = np.frombuffer(b"pgrade: ", np.uint8)
_WEB, _H2C, _PREFACE = _word(b"webs"), _word(b"h2c\r"), _word(b"PRI ")
_MQTT_NAMES = np.array([_word(b"MQTT"), _word(b"MQIs")])
_LDAP_OPERATIONS = (0x60, 0x78)
_SWITCHING = _word(b"101 ")
"""Status of an answer that changes protocols."""
_GOOGLE = np.array([_word(b"\0\0Q0"), _word(b"\0\0T0")])
_BEFORE_TLS = _word(b"\0Q04")
"""Begins the versions of Google's QUIC with long headers and a handshake of its own."""
_DIGITS = (ord("2"), ord("3"), ord("4"))
_GOOGLE_VERSION_AT = 9
"""Place of the version in packets of Google's QUIC before it had long headers, behind flags with
the lowest bit and an identifier."""
_QUIC_VERSIONS = np.array([1, 0x6B3343CF])
"""RFC 9000 and RFC 9369; those of Google begin with Q0 or T0."""
_QUIC_SERIES = (0xFF0000, 0xFACEB0)
"""Begin the versions of the drafts, and those of Facebook."""


@numba.njit(cache=True)
def recognise(data, at, end, protocol, ports):
    """Return what the payload data[at:end] of a TCP or UDP packet is, an index into SIGNS.

    Args:
        data: uint8.
        protocol: IP protocol number.
        ports: the two ports, in any order.
    """
    if end <= at:
        return _UNSEEN
    if protocol == IPPROTO_TCP:
        return _of_segment(data, at, end, ports)
    if protocol == IPPROTO_UDP:
        return _of_datagram(data, at, end, ports)
    return _UNSEEN


@numba.njit(cache=True)
def _number(data, at):
    """Return the big-endian 32 bits at data[at]."""
    value = np.int64(0)
    for k in range(at, at + 4):
        value = value << 8 | np.int64(data[k])
    return value


@numba.njit(cache=True)
def _is_in(value, some):
    for other in some:  # noqa: SIM110 - numba compiles no generators
        if value == other:
            return True
    return False


@numba.njit(cache=True)
def _of_segment(data, at, end, ports):
    size = end - at
    if size == 2 and data[at] in (0xC0, 0xD0) and data[at + 1] == 0:  # ping, or its answer
        return _MQTT
    is_command = size >= 3 and data[at] == 0xFF and data[at + 2] <= _LAST_OPTION
    if is_command and _COMMANDS[0] <= data[at + 1] <= _COMMANDS[1]:
        return _TELNET
    if size < 4:
        return _OPAQUE
    word, first = _number(data, at), np.int64(data[at])
    second = np.int64(data[at + 1])
    if 20 <= first <= 23 and second == 3 and data[at + 2] <= 4 and size > 5:
        return _TLS
    if _is_in(word, _METHODS) or word == _OPTIONS:
        if size > 12 and _is_in(_number(data, at + 8), _SCHEMES):
            return _SIP
        return _of_http(data, at, end)
    if word == _PREFACE:
        return _HTTP2
    if word == _SSH_WORD:
        return _SSH
    if _is_in(word, _SIP_WORDS):
        return _SIP
    if word in (_HELLO, _OLD_HELLO):
        return _SMTP
    if word == _READY:
        return _FTP if 21 in ports else _SMTP
    if word == _OK or (word >> 8 == _OK >> 8 and 110 in ports):
        return _POP3
    if word == _STAR_OK:
        return _IMAP
    if size < 8:
        return _unknown(data, at, end)
    after = _number(data, at + 4)
    if first in (0x10, 0x20) and 1883 in ports:
        return _MQTT
    if first == 0x10 and size > 12:
        longer = _number(data, at + 5)  # behind a length of two bytes
        if _is_in(after, _MQTT_NAMES) or _is_in(longer, _MQTT_NAMES):
            return _MQTT
    if word == size and _is_in(after, _STARTUPS):
        return _POSTGRESQL
    if first == 0 and after == _SMB_2:
        return _SMB2
    length = np.int64(data[at + 4]) << 8 | np.int64(data[at + 5])
    if word & 0xFFFF == 0 and (502 in ports or length + 6 == size) and 2 <= length <= 260:
        return _MODBUS
    if word >> 8 == 0x030000 and word & 0xFF == size and data[at + 5] >= 0xD0:
        return _RDP
    if first == 0x30:
        inner = at + 2 + (second & 0x7F if second & 0x80 else 0)
        if inner + 4 < end and data[inner] == 2:
            operation = inner + 2 + np.int64(data[inner + 1])
            low, high = _LDAP_OPERATIONS
            if operation < end and low <= data[operation] <= high:
                return _LDAP
    if first == ord("*") and 48 <= second <= 57 and data[at + 2] in (13, second):
        return _REDIS
    if 53 in ports and (np.int64(data[at]) << 8 | second) + 2 <= size:
        return _DNS
    unknown = _unknown(data, at, end)
    return _TELNET if unknown == _TEXT and 23 in ports else unknown


@numba.njit(cache=True)
def _of_http(data, at, end):
    """Return what a request or an answer of HTTP is; one of a connection that changes to another
    protocol is that, a mere offer of HTTP/2 is not."""
    is_change = end - at > 12 and _number(data, at + 9) == _SWITCHING and data[at] == ord("H")
    last = min(end, at + 1_500) - len(_UPGRADE) - 4
    for k in range(at, last + 1):
        if data[k] != _UPGRADE[0]:
            continue
        same = 1
        while same < len(_UPGRADE) and data[k + same] | 32 == _UPGRADE[same] | 32:
            same += 1
        if same == len(_UPGRADE):
            protocol = _number(data, k + same)
            if protocol | 0x20202020 == _WEB:
                return _WEBSOCKET
            if protocol == _H2C and is_change:
                return _HTTP2
    return _WEBSOCKET if is_change else _HTTP


@numba.njit(cache=True)
def _unknown(data, at, end):
    """Return what a payload of no known protocol is by its first bytes: text if nine of ten are
    printable, binary if a fourth or more repeat others, else opaque, as fewer bytes are."""
    size = min(end - at, _MOST_COUNTED)
    if size < _FEWEST_COUNTED:
        return _OPAQUE
    printable = distinct = 0
    seen = np.zeros(256, np.bool_)
    for k in range(at, at + size):
        byte = data[k]
        printable += 32 <= byte < 127 or 9 <= byte <= 13
        distinct += not seen[byte]
        seen[byte] = True
    if 10 * printable >= 9 * size:
        return _TEXT
    return _BINARY if 4 * distinct <= 3 * size else _OPAQUE


@numba.njit(cache=True)
def _of_datagram(data, at, end, ports):
    size = end - at
    if 5683 in ports and size >= 4 and data[at] >> 6 == 1 and data[at] & 0x0F <= 8:
        return _COAP
    if size < 8:
        return _OPAQUE
    word, first = _number(data, at), np.int64(data[at])
    second = np.int64(data[at + 1])
    if 137 in ports and size >= 12:
        return _NBNS
    if 138 in ports and size >= 11 and 0x10 <= first <= 0x16:
        return _NBDGM
    if (53 in ports or 5353 in ports or 5355 in ports) and size >= 12:
        return _DNS
    if 123 in ports and size >= 48:
        return _NTP
    if (67 in ports or 68 in ports) and size >= 240 and _number(data, at + 236) == _DHCP_COOKIE:
        return _DHCP
    if (161 in ports or 162 in ports) and first == 0x30:
        return _SNMP
    if 514 in ports and first == ord("<"):
        return _SYSLOG
    if _number(data, at + 4) == _STUN_COOKIE and first < 4 and size >= 20:
        return _STUN
    if 20 <= first <= 25 and second == 0xFE and data[at + 2] in (0xFD, 0xFF) and size >= 13:
        return _DTLS
    version = (word & 0xFFFFFF) << 8 | np.int64(data[at + 4])
    is_known = version >> 8 in _QUIC_SERIES or _is_in(version >> 16, _GOOGLE)
    if first & 0xC0 == 0xC0 and size >= 21 and (is_known or _is_in(version, _QUIC_VERSIONS)):
        return _GQUIC if version >> 8 == _BEFORE_TLS else _QUIC
    if first & 0x89 == 0x09 and size >= 21:
        older = np.int64(data[at + _GOOGLE_VERSION_AT]) << 8 | data[at + _GOOGLE_VERSION_AT + 1]
        if older == _GOOGLE[0] and data[at + _GOOGLE_VERSION_AT + 2] in _DIGITS:
            return _GQUIC
    if word in (_SEARCH, _NOTIFY) and 1900 in ports:
        return _SSDP
    if _is_in(word, _SIP_WORDS) or word == _OPTIONS:
        return _SIP
    if _is_in(word, _MGCP_WORDS) and data[at + 4] == ord(" "):
        return _MGCP
    kind = second & 0x7F
    if first >> 6 == 2 and size >= 12 and (kind < 35 or kind >= 96 or 72 <= kind <= 77):
        return _RTP
    return _unknown(data, at, end)


def window_kinds(signs: np.ndarray, first: np.ndarray) -> list[str]:
    """Return what each of W windows speaks: a name of SIGNS.

    The first of its PAYLOADS payloads that is of a protocol decides, unless one behind it changes
    from HTTP to another; but for RTP, whose header is short: more than half of them have to have
    it. More than half also make an unknown protocol text or binary.

    Args:
        signs: (P,) uint8, of each packet, window by window.
        first: (W + 1,) int64, first packet of each window, the last element P.
    """
    kinds = np.empty(len(first) - 1, np.int64)
    _window_kinds(signs, first, kinds)
    return [SIGNS[kind] for kind in kinds.tolist()]


@numba.njit(cache=True)
def _window_kinds(signs, first, kinds):
    votes = np.empty(len(SIGNS), np.int64)
    for w in range(len(kinds)):
        seen = 0
        votes[:] = 0
        kinds[w] = _UNSEEN
        for i in range(first[w], first[w + 1]):
            if signs[i] == _UNSEEN:
                continue
            seen += 1
            votes[signs[i]] += 1
            is_protocol = signs[i] not in (_OPAQUE, _TEXT, _BINARY, _RTP)
            if kinds[w] == _UNSEEN and is_protocol:
                kinds[w] = signs[i]
            if kinds[w] == _HTTP and signs[i] in (_WEBSOCKET, _HTTP2):
                kinds[w] = signs[i]
            if seen == PAYLOADS or kinds[w] not in (_UNSEEN, _HTTP):
                break
        if seen and kinds[w] == _UNSEEN:
            kinds[w] = _OPAQUE
            for kind in (_RTP, _TEXT, _BINARY):
                if 2 * votes[kind] > seen and (votes[kind] > 1 or kind != _RTP):
                    kinds[w] = kind
