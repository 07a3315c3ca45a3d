"""Numbers of the protocols that the checker reads, by their names in the standards.

They are written down here and not imported, so that the checker shares no code with what it
judges.
"""

LINKTYPE_NULL, LINKTYPE_ETHERNET, LINKTYPE_PPP, LINKTYPE_C_HDLC = 0, 1, 9, 104
LINKTYPE_LOOP, LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2 = 108, 113, 276
LINKTYPES_RAW = (12, 14, 101, 228, 229)
"""Link types (tcpdump.org/linktypes.html); the raw ones begin with an IP header."""

ETHERTYPE_IP, ETHERTYPE_IPV6 = 0x0800, 0x86DD
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
ETHERTYPES_MPLS = (0x8847, 0x8848)
ETHERTYPE_PPPOE_SESSION = 0x8864
PPP_IP, PPP_IPV6 = 0x21, 0x57
AF_INET = 2
AF_INET6 = (10, 24, 28, 30)
"""Address families of loopback frames: IPv6 has another number on each system."""

MAC_BYTES, ETHERTYPE_BYTES, VLAN_TAG_BYTES, MPLS_LABEL_BYTES = 6, 2, 4, 4
MAC_GROUP_BIT = 1
MIN_FRAME_BYTES = 64
"""The shortest Ethernet frame, with its check sequence (IEEE 802.3, 4A.4.2)."""
SLL_ADDRESS_BYTES, SLL2_HEADER_BYTES, LOOPBACK_HEADER_BYTES = 14, 20, 4
PPPOE_HEADER_BYTES, HDLC_HEADER_BYTES = 6, 4
PPP_ADDRESS_CONTROL = b"\xff\x03"

IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_FRAGMENT = 1, 6, 17, 44
IPPROTO_ICMPV6, IPPROTO_NONE = 58, 59
TRANSPORTS = {
    4: {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP", IPPROTO_ICMP: "ICMP"},
    6: {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP", IPPROTO_ICMPV6: "ICMPv6"},
}
"""IP version -> protocol number -> name of the transports that rules exist for."""

IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, MAX_IP_BYTES = 20, 40, 0xFFFF
IPV4_TOTAL_LENGTH, IPV6_PAYLOAD_LENGTH, IPV6_NEXT_HEADER = slice(2, 4), slice(4, 6), 6
IPV4_OPTION_END, IPV4_OPTION_NOP = 0, 1

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
TCP_FLAGS = FIN | SYN | RST | PSH | ACK | URG
TCP_HEADER_BYTES, TCP_DATA_OFFSET, TCP_CHECKSUM = 20, 12, 16
OPTION_END, OPTION_NOP, MSS, WINDOW_SCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8
FAST_OPEN, EXPERIMENTAL_OPTIONS = 34, (253, 254)
FAST_OPEN_MAGIC = b"\xf9\x89"
"""Begins a Fast Open option under an experimental kind (RFC 7413, 4.1.1)."""
OPTION_BYTES = {MSS: 4, WINDOW_SCALE: 3, SACK_PERMITTED: 2, TIMESTAMPS: 10}
"""Length of each TCP option whose length is fixed."""
MAX_WINDOW_SCALE = 14

UDP_HEADER_BYTES, UDP_CHECKSUM = 8, 6
DYNAMIC_PORT = 49152
"""The first dynamic port (RFC 6335, 6)."""

ICMP_HEADER_BYTES, ICMP_CHECKSUM, ICMP_QUOTED_BYTES = 8, 2, 8
ICMP_CODES = {
    0: 0, 3: 15, 4: 0, 5: 3, 8: 0, 9: 16, 10: 0, 11: 1, 12: 2, 13: 0, 14: 0,
    15: 0, 16: 0, 17: 0, 18: 0, 30: 1, 40: 5, 42: 0, 43: 4,
}  # fmt: skip
"""Highest code of each ICMP type in use (IANA; RFC 792, 950, 1122, 1256, 1393, 8335)."""
ICMP_ERRORS = (3, 4, 5, 11, 12)
ICMPV6_CODES = {
    1: 8, 2: 0, 3: 1, 4: 10, 128: 0, 129: 0, 130: 0, 131: 0, 132: 0, 133: 0, 134: 0, 135: 0,
    136: 0, 137: 0, 138: 255, 139: 2, 140: 2, 141: 0, 142: 0, 143: 0, 144: 0, 145: 0, 146: 0,
    147: 0, 148: 0, 149: 0, 151: 0, 152: 0, 153: 0, 154: 255, 155: 255, 157: 255, 158: 255,
    159: 0, 160: 0, 161: 4,
}  # fmt: skip
"""Highest code of each ICMPv6 type in use (IANA; RFC 4443 and those that add types)."""
ICMPV6_ERRORS = (1, 2, 3, 4)
NEIGHBOUR_DISCOVERY = range(133, 138)
NEIGHBOUR_HOP_LIMIT = 255
"""ICMPv6 types of neighbour discovery, and the hop limit they are sent with (RFC 4861, 7.1)."""
ECHO_REPLIES = {8: 0, 128: 129}
"""Reply type of each echo request type (RFC 792, RFC 4443)."""
