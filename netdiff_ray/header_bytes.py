"""Byte offsets of header fields, flag bits and protocol numbers, by name.

Every offset derives from the field table; no other module holds offsets.
"""

import numba
import numpy as np

from netdiff_ray.fields import BIT_IN_HEADER, FIELD_NAMED, HEADER_BITS


def byte_of(field: str) -> int:
    """Return the offset in its header, in bytes, of the byte with the field's first bit."""
    return BIT_IN_HEADER[field] // 8


IPV4_VER = byte_of("ipv4_ver")
IPV4_HL = byte_of("ipv4_hl")
IPV4_TOS = byte_of("ipv4_tos")
IPV4_TL = byte_of("ipv4_tl")
IPV4_ID = byte_of("ipv4_id")
IPV4_FLAGS = byte_of("ipv4_rbit")
IPV4_TTL = byte_of("ipv4_ttl")
IPV4_PROTO = byte_of("ipv4_proto")
IPV4_CKSUM = byte_of("ipv4_cksum")
IPV4_SRC = byte_of("ipv4_src")
IPV4_DST = byte_of("ipv4_dst")
IPV6_VER = byte_of("ipv6_ver")
IPV6_FL = byte_of("ipv6_fl")
IPV6_LEN = byte_of("ipv6_len")
IPV6_NH = byte_of("ipv6_nh")
IPV6_HL = byte_of("ipv6_hl")
IPV6_SRC = byte_of("ipv6_src")
IPV6_DST = byte_of("ipv6_dst")
SPORT = byte_of("tcp_sprt")
DPORT = byte_of("tcp_dprt")
TCP_SEQ = byte_of("tcp_seq")
TCP_ACKN = byte_of("tcp_ackn")
TCP_DOFF = byte_of("tcp_doff")
TCP_FLAGS = byte_of("tcp_cwr")
TCP_WSIZE = byte_of("tcp_wsize")
TCP_CKSUM = byte_of("tcp_cksum")
TCP_URP = byte_of("tcp_urp")
TCP_OPT = byte_of("tcp_opt")
UDP_LEN = byte_of("udp_len")
UDP_CKSUM = byte_of("udp_cksum")
ICMP_TYPE = byte_of("icmp_type")
ICMP_CODE = byte_of("icmp_code")
ICMP_CKSUM = byte_of("icmp_cksum")
ICMP_ROH = byte_of("icmp_roh")

IPV4_HEADER_BYTES = (HEADER_BITS["ipv4"] - FIELD_NAMED["ipv4_opt"].width) // 8
IPV6_HEADER_BYTES = HEADER_BITS["ipv6"] // 8
TCP_HEADER_BYTES = (HEADER_BITS["tcp"] - FIELD_NAMED["tcp_opt"].width) // 8
UDP_HEADER_BYTES = HEADER_BITS["udp"] // 8
ICMP_HEADER_BYTES = HEADER_BITS["icmp"] // 8
"""Bytes of each header without options."""

MAX_HEADER_BYTES = HEADER_BITS["ipv4"] // 8
"""Bytes of an IPv4 or a TCP header with all the options that it can have."""

IPV4_ADDRESS_BYTES = FIELD_NAMED["ipv4_src"].width // 8
IPV6_ADDRESS_BYTES = FIELD_NAMED["ipv6_src"].width // 8

IPV4_FRAGMENT_OFFSET = (1 << FIELD_NAMED["ipv4_foff"].width) - 1
IPV4_MORE_FRAGMENTS, IPV4_DONT_FRAGMENT = IPV4_FRAGMENT_OFFSET + 1, 2 * (IPV4_FRAGMENT_OFFSET + 1)
"""Bits of the 16 at IPV4_FLAGS (RFC 791)."""

IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 = 1, 6, 17, 58
"""Transport protocols that have columns (IANA, Assigned Internet Protocol Numbers)."""
IPV6_NO_NEXT_HEADER = 59
"""RFC 8200 section 4.7."""

IPV4_VER_HL = 4 << 4 | IPV4_HEADER_BYTES // 4
"""First byte of an IPv4 header without options (RFC 791 section 3.1)."""
IPV6_VER_TC = 6 << 4
"""First byte of an IPv6 header of traffic class 0 (RFC 8200 section 3)."""

ICMP_ECHO_REPLY, ICMP_UNREACHABLE, ICMP_REDIRECT, ICMP_ECHO = 0, 3, 5, 8
ICMP_ROUTER_ADVERTISEMENT, ICMP_ROUTER_SOLICITATION = 9, 10
ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM = 11, 12
ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY, ICMP_MASK_REPLY = 13, 14, 18
"""Types of ICMP messages (RFC 792, RFC 950, RFC 1256); between the last two stand the information
and mask requests, each before its reply."""
ICMP_FRAGMENTATION_NEEDED = 4
"""Code of ICMP_UNREACHABLE that comes with a next-hop MTU (RFC 1191 section 4)."""
ICMPV6_UNREACHABLE, ICMPV6_PACKET_TOO_BIG, ICMPV6_TIME_EXCEEDED, ICMPV6_PARAMETER_PROBLEM = (
    1,
    2,
    3,
    4,
)
ICMPV6_ECHO, ICMPV6_ECHO_REPLY = 128, 129
ICMPV6_LISTENER_QUERY, ICMPV6_LISTENER_REPORT, ICMPV6_LISTENER_DONE = 130, 131, 132
ICMPV6_ROUTER_SOLICITATION, ICMPV6_ROUTER_ADVERTISEMENT = 133, 134
ICMPV6_NEIGHBOUR_SOLICITATION, ICMPV6_NEIGHBOUR_ADVERTISEMENT, ICMPV6_REDIRECT = 135, 136, 137
ICMPV6_NODE_QUERY, ICMPV6_NODE_REPLY, ICMPV6_LISTENER_REPORT_2 = 139, 140, 143
"""Types of ICMPv6 messages (RFC 4443, RFC 2710, RFC 4861, RFC 4620, RFC 3810): errors are below
ICMPV6_ECHO, neighbour discovery goes from ICMPV6_ROUTER_SOLICITATION to ICMPV6_REDIRECT."""

IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS = 0, 43, 44, 51, 60
IPPROTO_MOBILITY, IPPROTO_HIP, IPPROTO_SHIM6 = 135, 139, 140
"""IPv6 extension headers (RFC 8200, 4302, 6275, 7401, 5533)."""

IPV6_FRAGMENT_HEADER_BYTES = 8
"""Bytes of an IPv6 fragment header (RFC 8200 section 4.5)."""

TCP_OPTION_END, TCP_OPTION_NOP, TCP_OPTION_MSS = 0, 1, 2
TCP_OPTION_WINDOW_SCALE, TCP_OPTION_SACK_PERMITTED, TCP_OPTION_SACK = 3, 4, 5
TCP_OPTION_TIMESTAMPS = 8
"""Kinds of TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018)."""

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << k for k in range(8))
"""Bits of the TCP flags byte (RFC 9293 section 3.1)."""

ONES = np.array([bin(k).count("1") for k in range(256)], np.uint8)
"""(256,) uint8: how many bits are set in each byte."""


def words16(headers: np.ndarray, at: int) -> np.ndarray:
    """Return (P,) int64: the 16 bits at byte `at` of each of (P, B) uint8."""
    return headers[:, at].astype(np.int64) << 8 | headers[:, at + 1]


@numba.njit(cache=True)
def u16(data, at):
    """Return the big-endian 16 bits at data[at], as int64."""
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@numba.njit(cache=True)
def get16(header, i, at):
    """Return the 16 bits at byte `at` of row `i`, as int64."""
    return (np.int64(header[i, at]) << 8) | np.int64(header[i, at + 1])


@numba.njit(cache=True)
def put16(header, i, at, value):
    """Write 16 bits at byte `at` of row `i`."""
    header[i, at] = (value >> 8) & 255
    header[i, at + 1] = value & 255


@numba.njit(cache=True)
def get32(header, i, at):
    """Return the 32 bits at byte `at` of row `i`, as int64."""
    return (get16(header, i, at) << 16) | get16(header, i, at + 2)


@numba.njit(cache=True)
def put32(header, i, at, value):
    """Write 32 bits at byte `at` of row `i`."""
    put16(header, i, at, (value >> 16) & 0xFFFF)
    put16(header, i, at + 2, value & 0xFFFF)


@numba.njit(cache=True)
def distance(a, b):
    """Return the number of bits in which two non-negative ints differ."""
    word = a ^ b
    count = 0
    while word:
        word &= word - 1
        count += 1
    return count


@numba.njit(cache=True)
def cleared_from_top(value, most):
    """Return `value` with as few of its highest bits cleared as make it at most `most`."""
    bit = np.int64(1) << 62
    while value > most:
        while not value & bit:
            bit >>= 1
        value ^= bit
    return value
