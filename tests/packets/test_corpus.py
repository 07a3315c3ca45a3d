"""Real captures: counts as their manifest has them, fields as tshark has them, hostile ones."""

import csv
import ipaddress
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from netdiff_ray.errors import CaptureError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP, IPV4_HEADER_BYTES, TCP_OPT
from netdiff_ray.nprint import LAYOUTS, encode
from netdiff_ray.packets import CaptureReader, Reason, header_rows
from netdiff_ray.packets.linktypes import READ_LINK_TYPES

FOLDERS = ("formats", "labelled", "labelled_more")


def manifest(corpus, folder):
    """Return (path, row) of each capture of a folder."""
    with open(corpus / folder / "manifest.csv", newline="") as file:
        return [(corpus / folder / row["path"], row) for row in csv.DictReader(file)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_record_counts_are_the_manifests(corpus, folder):
    wrong = {}
    for path, row in manifest(corpus, folder):
        if "not recognised" in row["reader_error"]:
            continue  # compressions that the manifest's reader did not know
        reader = CaptureReader(path)
        count = sum(len(table) for table in reader)
        if count != int(row["packets"]) or bool(reader.fault) != bool(row["reader_error"]):
            wrong[row["path"]] = (count, row["packets"], reader.fault)
    assert wrong == {}


def test_flow_counts_are_the_manifests(corpus):
    """Where every flow is TCP or UDP; the manifest does not count ICMP identifiers."""
    wrong = {}
    checked = 0
    for path, row in manifest(corpus, "labelled"):
        reader = CaptureReader(path)
        chunks = [(header_rows(table), (table.reason == 0).all()) for table in reader]
        if not all(
            whole and np.isin(rows["protocol"], (IPPROTO_TCP, IPPROTO_UDP)).all()
            for rows, whole in chunks
        ):
            continue
        chunks = (rows for rows, _ in chunks)
        windows = list(assemble_flows(chunks, reader.fingerprint, idle_timeout_s=1e9))
        flows = sum(int(w.is_last.sum()) for w in windows)
        checked += 1
        if flows != int(row["flows"]):
            wrong[row["path"]] = (flows, row["flows"])
    assert wrong == {}
    assert checked > 100


TSHARK = {  # name in tshark: name here
    "ip.ttl": "ipv4_ttl", "ip.len": "ipv4_tl", "ip.id": "ipv4_id", "ip.dsfield": "ipv4_tos",
    "ip.frag_offset": "ipv4_foff", "ip.proto": "ipv4_proto", "ip.flags.df": "ipv4_dfbit",
    "ip.flags.mf": "ipv4_mfbit", "ip.checksum": "ipv4_cksum", "ip.src": "ipv4_src",
    "ip.dst": "ipv4_dst", "ipv6.tclass": "ipv6_tc", "ipv6.flow": "ipv6_fl",
    "ipv6.plen": "ipv6_len", "ipv6.nxt": "ipv6_nh", "ipv6.hlim": "ipv6_hl",
    "ipv6.src": "ipv6_src", "ipv6.dst": "ipv6_dst", "tcp.srcport": "tcp_sprt",
    "tcp.dstport": "tcp_dprt", "tcp.seq_raw": "tcp_seq", "tcp.ack_raw": "tcp_ackn",
    "tcp.flags.urg": "tcp_urg", "tcp.flags.ack": "tcp_ackf", "tcp.flags.push": "tcp_psh",
    "tcp.flags.reset": "tcp_rst", "tcp.flags.syn": "tcp_syn", "tcp.flags.fin": "tcp_fin",
    "tcp.window_size_value": "tcp_wsize", "tcp.checksum": "tcp_cksum",
    "tcp.urgent_pointer": "tcp_urp", "udp.srcport": "udp_sport", "udp.dstport": "udp_dport",
    "udp.length": "udp_len", "udp.checksum": "udp_cksum", "icmp.type": "icmp_type",
    "icmp.code": "icmp_code",
}  # fmt: skip


def as_number(text):
    """Return the integer that tshark prints for a field."""
    if text in ("True", "False"):
        return int(text == "True")
    if "." in text or (":" in text):
        return int(ipaddress.ip_address(text))
    return int(text, 0)


TSHARK_COLUMNS = ["frame.protocols", "_ws.malformed", "tcp.options", *TSHARK]


def tshark_values(paths, folder):
    """Return {column: text} for each packet of captures, as tshark prints it."""
    merged = folder / "merged.pcapng"
    subprocess.run(["mergecap", "-a", "-w", merged, *paths], check=True)
    fields = [word for name in TSHARK_COLUMNS for word in ("-e", name)]
    run = subprocess.run(
        ["tshark", "-n", "-r", merged, "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE",
         "-T", "fields", "-E", "occurrence=f", "-E", "separator=|", *fields],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    # "data" alone is what tshark makes of pcapng blocks that hold no packet.
    lines = [line.split("|") for line in run.stdout.splitlines() if not line.startswith("data|")]
    return [dict(zip(TSHARK_COLUMNS, line, strict=True)) for line in lines]


def field_values(rows):
    """Return {tshark's name: values of the rows as integers, None where a bit is vacant}."""
    layout = LAYOUTS["nprint"]
    nprint = encode(rows, layout)
    values = {}
    for name, field in TSHARK.items():
        cells = nprint[:, layout.columns(field)]
        bits = np.packbits(cells == 1, axis=1)
        spare = -cells.shape[1] % 8
        whole = [int.from_bytes(b.tobytes()) >> spare for b in bits]
        values[name] = [None if v else n for v, n in zip((cells < 0).any(1), whole, strict=True)]
    return values


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark and mergecap")
def test_header_fields_are_tsharks(corpus, tmp_path):
    paths = []
    for folder in FOLDERS:
        for path, row in manifest(corpus, folder):
            kinds = [int(kind) for kind in row["link_type"].split(";") if kind.strip().isdigit()]
            mixed = path.name == "pcapng-sections-of-both-endians.pcapng"  # mergecap refuses it
            if READ_LINK_TYPES.issuperset(kinds) and not row["reader_error"] and not mixed:
                paths.append(path)
    printed = tshark_values(paths, tmp_path)
    has_row, rows = [], []
    for path in paths:
        for table in CaptureReader(path):
            has_row += (table.reason == Reason.OK).tolist()
            rows.append(header_rows(table))
    rows = np.concatenate(rows)
    values = field_values(rows)

    compared = different = 0
    explained = {"ip.len": 0, "ip.dst": 0}
    examples = []
    printed = (columns for columns, ok in zip(printed, has_row, strict=True) if ok)
    for k, (row, columns) in enumerate(zip(rows, printed, strict=True)):
        if columns["_ws.malformed"]:
            continue
        for name in TSHARK:
            present = values[name][k]
            if not columns[name] or present is None:
                continue
            compared += 1
            number = as_number(columns[name])
            if number == present:
                continue
            if name == "ip.len" and present == 0:
                explained["ip.len"] += 1  # segmentation offload: tshark puts its guess for a 0
            elif name == "ip.dst" and row["network_len"] > IPV4_HEADER_BYTES:
                explained["ip.dst"] += 1  # a source route: tshark shows the last hop
            else:
                different += 1
                examples.append((name, number, present, columns["frame.protocols"]))
        if columns["tcp.options"] and row["protocol"] == IPPROTO_TCP:
            options = row["transport"][TCP_OPT : row["transport_len"]].tobytes().hex()
            compared += 1
            different += options != columns["tcp.options"].replace(":", "")
    assert different == 0, examples[:10]
    assert compared > 2_500_000
    assert explained["ip.len"] < 30
    assert explained["ip.dst"] < 10


def test_hostile_captures_end_in_words(corpus, tmp_path):
    code = (
        "import re, sys; from netdiff_ray.cli import main; "
        "code = main(['inspect', '--json', sys.argv[1]]); "
        "peak_kb = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(peak_kb, code, file=sys.stderr)"
    )
    paths = [path for path, _ in manifest(corpus, "hostile")]
    folder = tmp_path / "hostile"
    folder.mkdir()
    for k, path in enumerate(paths):  # under a capture's suffix, so that none is passed over
        (folder / f"{k:04d}.pcap").symlink_to(path)
    run = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    peak_kb, exit_code = map(int, run.stderr.strip().splitlines()[-1].split())
    assert exit_code == 1  # read in part
    assert peak_kb < 600_000
    result = json.loads(run.stdout)
    assert len(result["captures"]) == len(paths)
    for fault in result["total"]["faults"]:
        assert " at byte " in fault, fault


def test_hostile_captures_encode(corpus):
    """Whatever can be read of them goes through flows and the codec."""
    for path, _ in manifest(corpus, "hostile"):
        for strict in (False, True):
            try:
                reader = CaptureReader(path, strict=strict)
            except CaptureError:
                continue
            chunks = (header_rows(table) for table in reader)
            for w in assemble_flows(chunks, reader.fingerprint, height=64):
                for begin in range(0, len(w.rows), 4096):
                    part = slice(begin, begin + 4096)
                    encode(
                        w.rows[part], LAYOUTS["stateful"], direction=w.direction[part],
                        interarrival_ns=w.interarrival_ns[part], state=w.state[part],
                    )  # fmt: skip
