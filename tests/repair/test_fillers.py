"""Payloads of every port that Wireshark knows, of any length, draw hardly a complaint."""

import subprocess

import numpy as np
import pytest
from flow_rows import rows_of, tcp_header, udp_header
from tools import tshark_complaints
from windows import write_pcap

from netdiff_ray.dialogue import OPAQUE_KINDS
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, plans_of, repair
from netdiff_ray.repair.fillers import UNFILLED_TCP, UNFILLED_UDP

STATEFUL = layout_named("stateful")
PSH_ACK = 24
REFUSED = {53, 5222, 5353, 5355}
"""Ports of DNS and XMPP, whose readers refuse other protocols there as they do real ones."""

LENGTHS_A_PORT = 30
"""Payload lengths that a port is sent, which differ from port to port."""
MOST_COMPLAINTS = 3e-4
"""Of packets: fillers are drawn at random, and some readers refuse one now and then."""


def flow(protocol, port, sizes, rng):
    """Return an nprint with a packet of each payload size, either side sending."""
    packets = []
    for size in sizes:
        side = int(rng.integers(0, 2)) if packets else 0
        if protocol == 6:
            packets.append((side, tcp_header(side, PSH_ACK, port=port), int(size)))
        else:
            packets.append((side, udp_header(side, int(size), port), int(size)))
    rows, direction = rows_of(packets, protocol=protocol)
    gaps_ns = np.full(len(rows), 100_000)
    return encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)


def registered(table):
    """Return the ports for which tshark has a dissector."""
    command = ["tshark", "-G", "decodes"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.split("\t") for line in told.stdout.splitlines())
    return sorted({int(port) for name, port, *_ in lines if name == table})


@pytest.mark.slow
@pytest.mark.usefixtures("tshark")
@pytest.mark.parametrize(
    ("protocol", "table", "unfilled"),
    [(6, "tcp.port", UNFILLED_TCP), (17, "udp.port", UNFILLED_UDP)],
)
@pytest.mark.parametrize("kind", ["", *OPAQUE_KINDS])
def test_every_registered_port_takes_any_length(kind, protocol, table, unfilled, tmp_path):
    rng = np.random.default_rng(protocol)
    ports = [port for port in registered(table) if port not in unfilled]
    sizes = [*range(1, 80), *rng.integers(80, 1400, 40)]
    drawn = [flow(protocol, port, rng.permutation(sizes)[:LENGTHS_A_PORT], rng) for port in ports]
    taken = [k for k, port in enumerate(ports) if not kind or port not in REFUSED]
    drawn = [drawn[k] for k in taken]
    plans = plans_of([UNPLANNED] * len(drawn), kinds=[kind] * len(drawn))
    result = repair(drawn, STATEFUL, RepairContext(), np.array(taken), plans=plans)
    path = tmp_path / "ports.pcap"
    write_pcap(path, [result])
    complaints = tshark_complaints(path)
    assert complaints.total() <= MOST_COMPLAINTS * len(ports) * LENGTHS_A_PORT, complaints
