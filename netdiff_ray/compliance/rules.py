"""The definition of compliant packets and flows: a table of named rules with their sources.

An error is a violation: no conforming sender produces it, whatever the network and the
capture point lose, repeat or reorder. A note is unusual but legal, or cannot be told apart
from what a capture misses; it is counted and never makes a packet or a flow invalid.
"""

from dataclasses import dataclass

ERROR, NOTE = "error", "note"
PACKET, FLOW, CAPTURE = "packet", "flow", "capture"


@dataclass(frozen=True)
class ComplianceRule:
    """A rule: `over` names the kind of packet or flow that it is judged on."""

    name: str
    scope: str
    over: str
    severity: str
    source: str
    says: str


def _rules(scope: str, over: str, *rows: tuple[str, str, str, str]) -> tuple[ComplianceRule, ...]:
    return tuple(ComplianceRule(name, scope, over, *rest) for name, *rest in rows)


RULES = (
    *_rules(
        PACKET,
        "any",
        ("frame_length", ERROR, "pcap", "no more bytes captured than were on the wire"),
        ("ether_source", ERROR, "IEEE 802.3, 3.2.3", "a source MAC is no group address"),
        ("ether_trailer", NOTE, "RFC 894", "no bytes after the packet but padding to 60"),
        ("ip_version", ERROR, "RFC 791, RFC 8200", "the version is what the link layer says"),
        ("ip_ttl_zero", ERROR, "RFC 1122, 3.2.1.7", "no packet is sent with a TTL of 0"),
        ("port_zero", ERROR, "RFC 6335, 6", "port 0 is reserved"),
        ("time_backwards", ERROR, "pcap", "in a flow no packet is 1 s earlier than one before"),
        ("time_order", NOTE, "pcap", "no record is earlier than the one before it"),
        ("time_plausible", NOTE, "pcap", "times lie between 1990 and 2100"),
    ),
    *_rules(
        PACKET,
        "IPv4",
        ("ipv4_header_length", ERROR, "RFC 791, 3.1", "5 to 15 words, inside the packet"),
        ("ipv4_total_length", ERROR, "RFC 791, 3.1", "holds the header, ends inside the frame"),
        ("ipv4_checksum", ERROR, "RFC 1071", "the header checksum is right"),
        ("ipv4_reserved_flag", ERROR, "RFC 791, 3.1", "the first flag bit is 0"),
        ("ipv4_options", ERROR, "RFC 791, 3.1", "options have lengths that fit the header"),
        ("ipv4_df_fragment", NOTE, "RFC 791, 3.1", "a fragment does not say don't fragment"),
    ),
    *_rules(
        PACKET,
        "IPv6",
        ("ipv6_payload_length", ERROR, "RFC 8200, 3", "the payload ends inside the frame"),
        ("ipv6_extension", ERROR, "RFC 8200, 4", "extension headers fit the payload"),
    ),
    *_rules(
        PACKET,
        "TCP",
        ("tcp_header_length", ERROR, "RFC 9293, 3.1", "5 to 15 words, inside the packet"),
        ("tcp_checksum", ERROR, "RFC 9293, 3.1", "the checksum is right"),
        ("tcp_reserved", ERROR, "RFC 9293, 3.1", "the reserved bits are 0"),
        ("tcp_flags_none", ERROR, "RFC 9293, 3.10.7", "some flag is set"),
        ("tcp_syn_fin", ERROR, "RFC 9293, 3.10.7", "SYN and FIN exclude each other"),
        ("tcp_syn_rst", ERROR, "RFC 9293, 3.10.7", "SYN and RST exclude each other"),
        ("tcp_fin_rst", NOTE, "RFC 9293, 3.10.7", "FIN and RST exclude each other"),
        ("tcp_ack_flag", ERROR, "RFC 9293, 3.10.7", "only a SYN or RST goes without ACK"),
        ("tcp_syn_data", ERROR, "RFC 7413", "a SYN carries data only with Fast Open"),
        ("tcp_urgent", NOTE, "RFC 9293, 3.1", "the urgent pointer is 0 without URG"),
        ("tcp_ack_field", NOTE, "RFC 9293, 3.1", "the acknowledgement is 0 without ACK"),
        ("tcp_options", ERROR, "RFC 9293, 3.2", "options have the lengths of their kinds"),
        ("tcp_option_twice", ERROR, "RFC 9293, 3.2", "no option stands twice"),
        ("tcp_option_on_syn", ERROR, "RFC 9293, RFC 7323, RFC 2018", "MSS, window scale and "
         "SACK-permitted stand only on a SYN, SACK never"),
        ("tcp_option_values", ERROR, "RFC 7323, 2.3", "window scale at most 14, MSS not 0"),
        ("tcp_padding", ERROR, "RFC 9293, 3.1", "after the end of options all is 0"),
        ("tcp_sack_blocks", ERROR, "RFC 2018, RFC 2883", "a block ends after it begins and, but "
         "for a first one (D-SACK), begins after the acknowledgement"),
        ("tcp_syn_echo", ERROR, "RFC 7323, 3.2", "a first SYN echoes no timestamp"),
    ),
    *_rules(
        PACKET,
        "UDP",
        ("udp_length", ERROR, "RFC 768", "8 or more, and what the IP length leaves"),
        ("udp_checksum", ERROR, "RFC 768, RFC 8200, 8.1", "right, or 0 under IPv4"),
    ),
    *_rules(
        PACKET,
        "ICMP",
        ("icmp_length", ERROR, "RFC 792", "8 bytes or more; an error quotes a header and 8 bytes"),
        ("icmp_type", ERROR, "RFC 792, IANA", "type and code exist"),
        ("icmp_checksum", ERROR, "RFC 792", "the checksum is right"),
    ),
    *_rules(
        PACKET,
        "ICMPv6",
        ("icmpv6_length", ERROR, "RFC 4443", "8 bytes or more; an error quotes a header"),
        ("icmpv6_type", ERROR, "RFC 4443, IANA", "type and code exist"),
        ("icmpv6_checksum", ERROR, "RFC 4443, 2.3", "the checksum is right"),
        ("icmpv6_hop_limit", ERROR, "RFC 4861, 7.1", "neighbour discovery has a hop limit of 255"),
    ),
    *_rules(
        PACKET,
        "TCP in a flow",
        ("tcp_syn_number", ERROR, "RFC 9293, 3.4", "a SYN takes a sequence number: the next "
         "segment begins after it"),
        ("tcp_fin_number", ERROR, "RFC 9293, 3.4", "a FIN takes a sequence number: what follows "
         "begins after it"),
        ("tcp_seq_window", ERROR, "RFC 9293, 3.8.6", "no segment reaches past the window that "
         "its receiver opened"),
        ("tcp_handshake_ack", ERROR, "RFC 9293, 3.5", "a SYN is acknowledged by its number + 1"),
        ("tcp_handshake_side", ERROR, "RFC 9293, 3.5", "a SYN-ACK answers the other side's SYN"),
        ("tcp_data_early", ERROR, "RFC 9293, 3.5", "no data goes before the SYN is answered"),
        ("tcp_syn_late", ERROR, "RFC 9293, 3.10.7.4", "no new SYN-ACK inside a connection"),
        ("tcp_new_connection", NOTE, "RFC 9293, 3.6.1", "a flow holds a single connection"),
        ("tcp_ack_unsent", ERROR, "RFC 9293, 3.10.7.4", "nothing is acknowledged before it is "
         "sent"),
        ("tcp_ack_unseen", NOTE, "RFC 9293", "what is acknowledged has been captured"),
        ("tcp_ack_backwards", ERROR, "RFC 9293, 3.4", "a new segment acknowledges no less than "
         "the ones before it"),
        ("tcp_data_after_fin", ERROR, "RFC 9293, 3.6", "no new data after a side's FIN"),
        ("tcp_data_after_rst", ERROR, "RFC 9293, 3.5.2", "no data after a side's RST"),
        ("tcp_timestamp_echo", ERROR, "RFC 7323, 3.2", "no timestamp is echoed before it is sent"),
        ("tcp_timestamp_order", ERROR, "RFC 7323, 5.3", "a side's timestamps do not fall"),
        ("tcp_timestamp_absent", NOTE, "RFC 7323, 3.2", "agreed timestamps stand on each segment"),
        ("tcp_sack_agreed", ERROR, "RFC 2018, 2", "SACK is sent only to one who permitted it"),
        ("tcp_scale_agreed", ERROR, "RFC 7323, 2.2", "a SYN-ACK scales and stamps only if the "
         "SYN did"),
        ("tcp_seq_gap", NOTE, "RFC 9293", "a segment begins where the last one ended"),
        ("tcp_retransmission", NOTE, "RFC 6298", "a segment is sent once"),
        ("tcp_window_back", NOTE, "RFC 9293, 3.8.6", "the right edge of a window does not move "
         "back"),
        ("tcp_ack_inside", NOTE, "RFC 9293, 3.8.6.3", "what is acknowledged ends where a segment "
         "does"),
        ("tcp_answer_early", NOTE, "RFC 9293, 3.5", "no acknowledgement comes in less than half "
         "the time that the handshake took"),
    ),
    *_rules(
        PACKET,
        "ICMP in a flow",
        ("icmp_echo_pair", ERROR, "RFC 792, RFC 4443", "a reply has identifier and sequence of "
         "a request"),
        ("icmp_echo_sequence", NOTE, "RFC 792, RFC 4443", "requests of an identifier count up"),
    ),
    *_rules(
        FLOW,
        "any",
        ("ip_ttl_constant", ERROR, "RFC 791, 3.2", "the TTL of a direction does not keep changing"),
        ("ip_ttl_change", NOTE, "RFC 791, 3.2", "the TTL of a direction is one value"),
        ("time_zero", ERROR, "pcap", "some packet of a flow has a time other than 0"),
        ("time_constant", NOTE, "pcap", "8 packets or more are not all of one time"),
        ("flow_padded", ERROR, "NetDiffusion, POMACS 8(1)", "no flow is filled to 1,024 packets "
         "with broken ones"),
        ("flow_ports", ERROR, "RFC 9293, 3.3.1", "two hosts exchange TCP on kept ports"),
        ("port_dynamic", NOTE, "RFC 6335, 6", "one of the ports is below 49152"),
    ),
    *_rules(
        FLOW,
        "IPv4",
        ("ipv4_id_repeated", NOTE, "RFC 6864, 4", "an identification that may be fragmented is "
         "not reused at once"),
    ),
    *_rules(
        FLOW,
        "TCP",
        ("tcp_ack_short", ERROR, "RFC 9293, 3.4", "acknowledgements count the data: a side does "
         "not always stop at the start of the last segment"),
    ),
    *_rules(
        CAPTURE,
        "any",
        ("link_type_raw", NOTE, "tcpreplay", "frames have a link layer that a wire can carry"),
        ("flow_length_constant", NOTE, "NetDiffusion, POMACS 8(1)", "3 flows or more of over 8 "
         "packets are not all of one length"),
    ),
)  # fmt: skip
