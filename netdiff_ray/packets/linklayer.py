"""From a captured frame to its IP and transport headers, by the capture's link type.

Link types are the LINKTYPE_ numbers of the pcap registry (tcpdump.org/linktypes.html).
A frame is never guessed at: one of an unknown link type is counted by name and gives
no row. The *strict* reading is nPrint 1.2.1's own, which looks for an EtherType at
bytes 12-13 whatever the link type; it exists for comparison with that tool.
"""

from enum import IntEnum

import numba
import numpy as np

LINK_TYPES = {
    0: "NULL",
    1: "ETHERNET",
    3: "AX25",
    6: "IEEE802_5",
    7: "ARCNET_BSD",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    12: "RAW",
    14: "RAW",
    50: "PPP_HDLC",
    51: "PPP_ETHER",
    100: "ATM_RFC1483",
    101: "RAW",
    104: "C_HDLC",
    105: "IEEE802_11",
    106: "ATM_CLIP",
    107: "FRELAY",
    108: "LOOP",
    113: "LINUX_SLL",
    114: "LTALK",
    119: "IEEE802_11_PRISM",
    122: "IP_OVER_FC",
    123: "SUNATM",
    127: "IEEE802_11_RADIOTAP",
    129: "ARCNET_LINUX",
    138: "APPLE_IP_OVER_IEEE1394",
    140: "MTP2",
    141: "MTP3",
    143: "DOCSIS",
    144: "LINUX_IRDA",
    147: "USER0",
    149: "USER2",
    163: "IEEE802_11_AVS",
    165: "BACNET_MS_TP",
    166: "PPP_PPPD",
    187: "BLUETOOTH_HCI_H4",
    189: "USB_LINUX",
    192: "PPI",
    195: "IEEE802_15_4_WITHFCS",
    200: "JUNIPER_ST",
    201: "BLUETOOTH_HCI_H4_WITH_PHDR",
    220: "USB_LINUX_MMAPPED",
    224: "FC_2",
    226: "IPNET",
    227: "CAN_SOCKETCAN",
    228: "IPV4",
    229: "IPV6",
    230: "IEEE802_15_4_NOFCS",
    231: "DBUS",
    239: "NFLOG",
    242: "INFINIBAND",
    243: "SCTP",
    247: "INFINIBAND",
    249: "USBPCAP",
    253: "NETLINK",
    258: "PKTAP",
    271: "VSOCK",
    276: "LINUX_SLL2",
    281: "DSA_TAG_BRCM",
    283: "DSA_TAG_DSA",
    284: "DSA_TAG_EDSA",
}
"""Names of the LINKTYPE_ numbers that captures in use carry."""

READ_LINK_TYPES = frozenset({0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 113, 228, 229, 276})
"""The link types whose frames are followed to an IP header."""


def link_type_name(number: int) -> str:
    """Name of a LINKTYPE_ number, `LINKTYPE_<number>` for one that has none here."""
    return LINK_TYPES.get(number, f"LINKTYPE_{number}")


class Reason(IntEnum):
    """Why a record gives no row; OK where it gives one."""

    OK = 0
    EMPTY = 1
    BAD_INTERFACE = 2
    LINK_TYPE = 3
    LINK_CUT = 4
    NOT_IP = 5
    VERSION = 6
    NETWORK_CUT = 7
    HEADER_LENGTH = 8
    EXTENSION_CUT = 9
    PROTOCOL = 10

    @property
    def words(self) -> str:
        """The reason as a user reads it."""
        return REASON_WORDS[self]


REASON_WORDS = {
    Reason.OK: "read",
    Reason.EMPTY: "record of no bytes",
    Reason.BAD_INTERFACE: "names an interface that its section lacks",
    Reason.LINK_TYPE: "link type not read",
    Reason.LINK_CUT: "cut inside the link header",
    Reason.NOT_IP: "not IP",
    Reason.VERSION: "IP version is not what the link header says",
    Reason.NETWORK_CUT: "cut inside the IP header",
    Reason.HEADER_LENGTH: "IPv4 header length under 20 bytes",
    Reason.EXTENSION_CUT: "cut inside an IPv6 extension header",
    Reason.PROTOCOL: "protocol other than TCP, UDP, ICMP, ICMPv6",
}

_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_AH, _FRAGMENT = 51, 44


@numba.njit(cache=True)
def _u16(data, at):
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@numba.njit(cache=True)
def _u32(data, at):
    return (_u16(data, at) << 16) | _u16(data, at + 2)


@numba.njit(cache=True)
def _after_ppp_protocol(protocol):
    """EtherType that a PPP protocol number (RFC 1332, 5072, 3032) stands for, else 0."""
    if protocol == 0x0021:
        return 0x0800
    if protocol == 0x0057:
        return 0x86DD
    if protocol == 0x0281:
        return 0x8847
    return 0


@numba.njit(cache=True)
def _ppp(data, at, end):
    """(EtherType or 0, position after the protocol field, protocol); -1 position if cut.

    RFC 1661 and 1662: address and control may be compressed away, and the protocol
    field to one byte, whose lowest bit is then 1.
    """
    if at + 2 <= end and data[at] == 0xFF and data[at + 1] == 0x03:
        at += 2
    if at + 1 > end:
        return 0, -1, 0
    if data[at] & 1:
        protocol = np.int64(data[at])
        at += 1
    else:
        if at + 2 > end:
            return 0, -1, 0
        protocol = _u16(data, at)
        at += 2
    return _after_ppp_protocol(protocol), at, protocol


@numba.njit(cache=True)
def _through_tags(data, at, end, ether_type):
    """Walk VLAN tags, MPLS labels and PPPoE from `ether_type` on.

    Returns (version, position of the IP header, EtherType of what is not IP); the
    position is -1 if the frame is cut.
    """
    while True:
        if ether_type == 0x0800:
            return 4, at, 0
        if ether_type == 0x86DD:
            return 6, at, 0
        if ether_type in (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300):
            if at + 4 > end:
                return 0, -1, 0
            ether_type = _u16(data, at + 2)
            at += 4
        elif ether_type in (0x8847, 0x8848):
            while True:
                if at + 4 > end:
                    return 0, -1, 0
                bottom = data[at + 2] & 1
                at += 4
                if bottom:
                    break
            if at >= end:
                return 0, -1, 0
            version = data[at] >> 4
            if version == 4 or version == 6:
                return np.int64(version), at, 0
            return 0, at, ether_type
        elif ether_type == 0x8864:
            if at + 6 > end:
                return 0, -1, 0
            ether_type, at, protocol = _ppp(data, at + 6, end)
            if at < 0:
                return 0, -1, 0
            if ether_type == 0:
                return 0, at, protocol
        elif ether_type < 0x0600:  # IEEE 802.3 length, then LLC; SNAP carries an EtherType
            if at + 8 > end:
                return 0, at, ether_type
            if _u16(data, at) != 0xAAAA or data[at + 2] != 3 or _u16(data, at + 3) != 0:
                return 0, at, ether_type
            if data[at + 5] != 0:
                return 0, at, ether_type
            ether_type = _u16(data, at + 6)
            at += 8
            if ether_type < 0x0600:
                return 0, at, ether_type
        else:
            return 0, at, ether_type


@numba.njit(cache=True)
def _family_version(family):
    """IP version of an AF_ number: 2 everywhere; IPv6 is 10 Linux, 24 NetBSD, 28 FreeBSD,
    30 Darwin."""
    if family == 2:
        return 4
    if family in (10, 24, 28, 30):
        return 6
    return 0


@numba.njit(cache=True)
def _network(data, at, end, link_type):
    """(reason, version, position of the IP header, EtherType of what is not IP)."""
    version = 0
    other = 0
    if link_type == 1:
        if at + 14 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = _through_tags(data, at + 14, end, _u16(data, at + 12))
    elif link_type in (12, 14, 101):
        version = np.int64(data[at] >> 4)
        if version != 4 and version != 6:
            return Reason.VERSION.value, 0, -1, 0
    elif link_type == 228:
        version = 4
    elif link_type == 229:
        version = 6
    elif link_type == 113:
        if at + 16 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = _through_tags(data, at + 16, end, _u16(data, at + 14))
    elif link_type == 276:
        if at + 20 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = _through_tags(data, at + 20, end, _u16(data, at))
    elif link_type == 0 or link_type == 108:
        if at + 4 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        family = _u32(data, at)
        if family > 0xFFFF:  # written in the byte order of a little-endian host
            family = (family >> 24) | ((family >> 8) & 0xFF00)
        version = _family_version(family)
        other = family
        at += 4
    elif link_type == 9 or link_type == 50:
        if at + 4 <= end and data[at] in (0x0F, 0x8F) and data[at + 1] == 0:
            version, at, other = _through_tags(data, at + 4, end, _u16(data, at + 2))
        else:
            ether_type, at, other = _ppp(data, at, end)
            if at >= 0 and ether_type:
                version, at, other = _through_tags(data, at, end, ether_type)
    elif link_type == 51:
        version, at, other = _through_tags(data, at, end, 0x8864)
    elif link_type == 104:
        if at + 4 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = _through_tags(data, at + 4, end, _u16(data, at + 2))
    else:
        return Reason.LINK_TYPE.value, 0, -1, 0
    if at < 0:
        return Reason.LINK_CUT.value, 0, -1, 0
    if version == 0:
        return Reason.NOT_IP.value, 0, -1, other
    if at >= end:
        return Reason.NETWORK_CUT.value, 0, -1, 0
    if data[at] >> 4 != version:
        return Reason.VERSION.value, 0, -1, 0
    return Reason.OK.value, version, at, 0


@numba.njit(cache=True)
def _strict_network(data, at, end, link_type):
    """`_network` as nPrint 1.2.1 does it; bytes past the capture count as 0."""
    if link_type == 113:
        at += 16
    elif at + 14 <= end and _u16(data, at + 12) in (0x0800, 0x86DD):
        at += 14
    if at >= end:
        return Reason.NETWORK_CUT.value, 0, -1, 0
    version = np.int64(data[at] >> 4)
    if version != 4 and version != 6:
        return Reason.VERSION.value, 0, -1, 0
    return Reason.OK.value, version, at, 0


@numba.njit(cache=True)
def _is_extension(protocol):
    """Whether an IPv6 next header can be walked past (RFC 8200, 4302, 6275, 7401, 5533)."""
    return protocol in (0, 43, 44, 51, 60, 135, 139, 140)


@numba.njit(cache=True)
def locate(
    data, start, caplen, link_type, strict,
    network, transport, version, protocol, fragment, fragment_id, ether_type, reason,
):  # fmt: skip
    """Fill the located columns of a `PacketTable` from its record columns, in place.

    Records whose `reason` already is not OK are left without headers. `strict` (bool)
    gives nPrint's own reading.
    """
    for i in range(len(start)):
        network[i] = -1
        transport[i] = -1
        version[i] = 0
        protocol[i] = 0
        fragment[i] = 0
        fragment_id[i] = 0
        ether_type[i] = 0
        if reason[i] != 0:
            continue
        begin = start[i]
        end = begin + caplen[i]
        if begin == end:
            reason[i] = Reason.EMPTY.value
            continue
        if strict:
            why, ip, at, other = _strict_network(data, begin, end, link_type[i])
        else:
            why, ip, at, other = _network(data, begin, end, link_type[i])
        if why != 0:
            reason[i] = why
            ether_type[i] = other
            continue
        fixed = 20 if ip == 4 else 40
        if at + fixed > end:
            reason[i] = Reason.NETWORK_CUT.value
            continue
        if ip == 4:
            header = np.int64(data[at] & 15) * 4
            proto = data[at + 9]
            after = at + header
            if not strict:
                if header < 20:
                    reason[i] = Reason.HEADER_LENGTH.value
                    continue
                flags = _u16(data, at + 6)
                if flags & 0x3FFF:
                    fragment[i] = 2 if flags & 0x1FFF else 1
                    fragment_id[i] = _u16(data, at + 4)
        else:
            proto = data[at + 6]
            after = at + 40
            cut = False
            while not strict and _is_extension(proto):
                if after + 8 > end:
                    cut = True
                    break
                this = proto
                proto = data[after]
                if this == _FRAGMENT:
                    flags = _u16(data, after + 2)
                    if flags & 0xFFF9:
                        fragment[i] = 2 if flags & 0xFFF8 else 1
                        fragment_id[i] = _u32(data, after + 4)
                    after += 8
                elif this == _AH:
                    after += (np.int64(data[after + 1]) + 2) * 4
                else:
                    after += (np.int64(data[after + 1]) + 1) * 8
                if after > end:
                    cut = True
                    break
                if fragment[i] == 2:
                    break
            if cut:
                reason[i] = Reason.EXTENSION_CUT.value
                continue
        wanted = proto == _TCP or proto == _UDP or proto == _ICMP
        if not strict and ip == 6 and (proto == _ICMPV6 or fragment[i] == 2):
            wanted = True
        if not wanted:
            reason[i] = Reason.PROTOCOL.value
            ether_type[i] = 0
            version[i] = ip
            protocol[i] = proto
            continue
        network[i] = at - begin
        version[i] = ip
        protocol[i] = proto
        if fragment[i] != 2:
            transport[i] = after - begin
