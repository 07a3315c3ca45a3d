"""Label files in the forms of public datasets and tools."""

import datetime
import json

import pytest
from label_builders import S_NS, clock_text, made_flows, right_share, swapped_quarter

from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.flow_labels.formats import TABLE_FORMATS
from netdiff_ray.flow_labels.read import read_labels

NAMES = {6: "tcp", 17: "udp", 1: "icmp"}
FLOWS = made_flows(200)


def cic_2018(flows):
    """Return the flows as a table of CSE-CIC-IDS2018 with addresses."""
    rows = ["Flow ID,Src IP,Src Port,Dst IP,Dst Port,Protocol,Timestamp,Flow Duration,Label"]
    rows += [
        f"x,{f.src},{f.sport},{f.dst},{f.dport},{f.protocol},"
        f"{clock_text(f.start_ns, '%d/%m/%Y %I:%M:%S', -4)},{f.duration_ns // 1000},{f.label}"
        for f in flows
    ]
    return "\n".join(rows).encode()


def unsw(flows):
    """Return the flows as a table of UNSW-NB15: no header, seconds, an empty category if normal."""
    header = TABLE_FORMATS["unsw-nb15"].header
    rows = []
    for f in flows:
        cells = dict.fromkeys(header, "0") | {
            "srcip": f.src, "sport": str(f.sport), "dstip": f.dst, "dsport": str(f.dport),
            "proto": NAMES[f.protocol], "dur": f"{f.duration_ns / S_NS:.6f}",
            "Stime": str(f.start_ns // S_NS), "Ltime": str((f.start_ns + f.duration_ns) // S_NS),
            "attack_cat": "" if f.label == "Normal" else f" {f.label} ",
        }  # fmt: skip
        rows.append(",".join(cells.values()))
    return "\n".join(rows).encode()


def ctu_13(flows):
    """Return the flows as a binetflow of CTU-13: local time, ports of ICMP in hexadecimal."""
    rows = ["StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,"
            "SrcBytes,Label"]  # fmt: skip
    for f in flows:
        ports = (f.sport, f.dport) if f.protocol != 1 else ("0x0008", "0x4d2e")
        start = clock_text(f.start_ns, "%Y/%m/%d %H:%M:%S.{f}", 2)
        rows.append(
            f"{start},{f.duration_ns / S_NS:.6f},{NAMES[f.protocol]},{f.src},{ports[0]},  <->,"
            f"{f.dst},{ports[1]},CON,0,0,4,300,100,{f.label}"
        )
    return "\n".join(rows).encode()


def zeek(flows, *, as_json=False):
    """Return the flows as conn.log and notice.log; those of the label BENIGN have no notice."""
    fields = ["ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration"]
    conns = [
        [
            f"{f.start_ns // S_NS}.{f.start_ns % S_NS // 1000:06}", f"C{k}", f.src, f.sport, f.dst,
            f.dport, NAMES[f.protocol], f"{f.duration_ns / S_NS:.6f}" if f.duration_ns else "-",
        ]
        for k, f in enumerate(flows)
    ]  # fmt: skip
    notices = [
        [conn[0], conn[1], flow.label]
        for conn, flow in zip(conns, flows, strict=True)
        if flow.label != "BENIGN"
    ]
    notices.append(["1.0", "-", "Scan::Port_Scan"])
    logs = ((fields, conns), (["ts", "uid", "note"], notices))
    if as_json:
        return [
            "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows).encode()
            for names, rows in logs
        ]
    head = "#separator \\x09\n#set_separator\t,\n#path\tconn\n#fields\t{}\n#types\tx\n"
    return [
        (head.format("\t".join(names)) + "\n".join("\t".join(map(str, row)) for row in rows)
         + "\n#close\t2017-07-05-20-00-00\n").encode()
        for names, rows in logs
    ]  # fmt: skip


def suricata(flows):
    """Return the flows as an eve.json: an alert, or a flow without alerts if BENIGN."""
    lines = []
    for f in flows:
        ends = {"src_ip": f.src, "src_port": f.sport, "dest_ip": f.dst, "dest_port": f.dport}
        start, end = (
            clock_text(ns, "%Y-%m-%dT%H:%M:%S.{f}+0200", 2)
            for ns in (f.start_ns, f.start_ns + f.duration_ns)
        )
        event = {"timestamp": end, **ends, "proto": NAMES[f.protocol].upper()}
        flow = {"start": start, "end": end, "alerted": f.label != "BENIGN"}
        alert = {"signature": f"ET {f.label}", "category": f.label}
        if f.label != "BENIGN":
            lines.append(event | {"event_type": "alert", "alert": alert, "flow": {"start": start}})
        lines.append(event | {"event_type": "flow", "flow": flow})
        lines.append(event | {"event_type": "dns", "dns": {"type": "query"}})
    return "\n".join(map(json.dumps, lines)).encode()


@pytest.mark.parametrize(
    ("form", "content", "zone"),
    [
        ("cic-ids2018", cic_2018, "-04:00"),
        ("unsw-nb15", unsw, "+00:00"),
        ("ctu-13", ctu_13, "+02:00"),
    ],
)
def test_tables_of_public_datasets(tmp_path, form, content, zone):
    flows = [
        flow.__class__(**{**vars(flow), "label": "Normal"}) if flow.label == "BENIGN" else flow
        for flow in FLOWS
    ]
    share, choice = right_share(tmp_path, flows, content(swapped_quarter(flows)))
    assert share >= 0.99
    assert choice.clock.zone == zone
    named = read_labels([str(tmp_path / "labels.csv")], form=form)
    assert len(named) == len(flows)
    assert set(named.labels) == {flow.label for flow in flows}


@pytest.mark.parametrize("as_json", [False, True])
def test_zeek_connections_have_their_notices_as_labels(tmp_path, as_json):
    conn, notice = zeek(swapped_quarter(FLOWS), as_json=as_json)
    for name, content in (("conn.log", conn), ("notice.log", notice)):
        (tmp_path / name).write_bytes(content)
    table = read_labels([str(tmp_path / "notice.log"), str(tmp_path / "conn.log")])
    assert len(table) == len(FLOWS)
    assert (table.label < 0).sum() == sum(flow.label == "BENIGN" for flow in FLOWS)
    assert {table.labels[k] for k in table.label if k >= 0} == {f.label for f in FLOWS} - {"BENIGN"}
    assert str(table.problems[0]).endswith("a notice of no connection")
    assert (table.is_calendar, len(table.problems)) == (False, 1)


def test_a_zeek_log_without_labels_asks_for_notices(tmp_path):
    (tmp_path / "conn.log").write_bytes(zeek(FLOWS)[0])
    with pytest.raises(DataError, match=r"no field label; give the notice.log of the same run"):
        read_labels([str(tmp_path / "conn.log")])


def test_suricata_alerts_are_labels_of_their_flows(tmp_path):
    attacks = [flow for flow in FLOWS if flow.label != "BENIGN"]
    share, choice = right_share(tmp_path, attacks, suricata(swapped_quarter(attacks)), "eve.json")
    assert (share, choice.clock.zone) == (1.0, "+00:00")
    (tmp_path / "eve.json").write_bytes(suricata(FLOWS) + b'\n{"event_type": "al')
    table = read_labels([str(tmp_path / "eve.json")], columns={"label": "alert.signature"})
    assert len(table) == len(FLOWS)
    assert set(table.labels) == {f"ET {flow.label}" for flow in attacks}
    lines = len(suricata(FLOWS).splitlines()) + 1
    assert [str(p) for p in table.problems] == [
        f"eve.json, line {lines:,}: no JSON object, or one cut short"
    ]


def test_tables_without_addresses_say_which_have_them(tmp_path):
    day = datetime.date(2018, 2, 14).strftime("%d/%m/%Y")
    (tmp_path / "ml.csv").write_text(
        f"Dst Port,Protocol,Timestamp,Label\n22,6,{day} 08:31:01,Benign\n"
    )
    with pytest.raises(ConfigError, match=r"Rows without addresses, as in CIC's tables"):
        read_labels([str(tmp_path / "ml.csv")])
