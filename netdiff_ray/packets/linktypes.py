"""The link types of captures: LINKTYPE_ numbers of the pcap registry and their names.

Source: tcpdump.org/linktypes.html and libpcap's dlt.h.
"""

NULL, ETHERNET, PPP, RAW_BSD, RAW_OPENBSD, PPP_HDLC, PPP_ETHER = 0, 1, 9, 12, 14, 50, 51
RAW, C_HDLC, LOOP, LINUX_SLL, IPV4, IPV6, LINUX_SLL2 = 101, 104, 108, 113, 228, 229, 276

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

READ_LINK_TYPES = frozenset({
    NULL, ETHERNET, PPP, RAW_BSD, RAW_OPENBSD, PPP_HDLC, PPP_ETHER, RAW, C_HDLC, LOOP, LINUX_SLL,
    IPV4, IPV6, LINUX_SLL2,
})  # fmt: skip
"""The link types whose frames are followed to an IP header."""


def link_type_name(number: int) -> str:
    """Return the name of a LINKTYPE_ number, `LINKTYPE_<number>` for one without a name."""
    return LINK_TYPES.get(number, f"LINKTYPE_{number}")
