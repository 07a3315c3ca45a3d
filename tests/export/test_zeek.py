"""conn.log: states, histories and bytes of connections, and lines that Zeek's readers read."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from export.test_merge import made_dataset
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.config import ExportConfig
from netdiff_ray.export.connections import follow_connections
from netdiff_ray.export.run import export
from netdiff_ray.export.zeek import COLUMNS, conn_state, json_line, tsv_head, tsv_line
from netdiff_ray.header_bytes import ACK, FIN, IPPROTO_TCP, IPPROTO_UDP, PSH, RST, SYN

C, S = 0, 1


def connection_of(tmp_path, *packets):
    """Return the CONNECTION of (direction, frame) pairs, 1 s apart, and its history."""
    frames = [(k, 0, frame) for k, (_, frame) in enumerate(packets)]
    _, _, rows = read(tmp_path / "c.pcap", pcap(frames))
    direction = np.array([side for side, _ in packets], np.uint8)
    (connection,) = follow_connections(rows, direction, np.array([0, len(rows)]))
    return connection, connection["letters"][: connection["num_letters"]].tobytes().decode()


def segment(side, flags, seq, ack, size=0, window=8192):
    """Return the (direction, frame) of a segment whose numbers count from 1000 and 5000."""
    ends = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000} if side else {}
    own, other = (5000, 1000) if side else (1000, 5000)
    numbers = {"seq": own + seq, "ack": other + ack if flags & ACK else 0, "window": window}
    return side, tcp4(flags, bytes(size), **ends, **numbers)


OPEN = (segment(C, SYN, 0, 0), segment(S, SYN | ACK, 0, 1), segment(C, ACK, 1, 1))
ASKED = (segment(C, PSH | ACK, 1, 1, 10), segment(S, ACK, 1, 11), segment(S, PSH | ACK, 1, 11, 30))
CLOSED_IN_ORDER = (
    segment(C, FIN | ACK, 11, 31), segment(S, FIN | ACK, 31, 12), segment(C, ACK, 12, 32),
)  # fmt: skip


@pytest.mark.parametrize(
    ("packets", "state", "history", "sent"),
    [
        ((*OPEN, *ASKED, *CLOSED_IN_ORDER), "SF", "ShADadFf", (10, 30)),
        ((*OPEN, *ASKED), "S1", "ShADad", (10, 30)),
        (OPEN[:1], "S0", "S", (0, 0)),
        ((*OPEN[:1], *OPEN[:1]), "S0", "S", (0, 0)),
        ((OPEN[0], segment(S, RST | ACK, 0, 1)), "REJ", "Sr", (0, 0)),
        ((OPEN[0], segment(C, RST, 1, 0)), "RSTOS0", "SR", (0, 0)),
        ((*OPEN, *ASKED, segment(C, RST, 11, 0)), "RSTO", "ShADadR", (10, 30)),
        ((*OPEN, *ASKED, segment(S, RST, 31, 0)), "RSTR", "ShADadr", (10, 30)),
        ((*OPEN, *ASKED, CLOSED_IN_ORDER[0]), "S2", "ShADadF", (10, 30)),
        ((*OPEN, segment(S, FIN | ACK, 1, 1)), "S3", "ShAf", (0, 0)),
        ((OPEN[0], segment(C, FIN, 1, 0)), "SH", "SF", (0, 0)),
        ((OPEN[1], segment(S, FIN | ACK, 1, 1)), "SHR", "hf", (0, 0)),
        ((OPEN[1], segment(S, RST, 1, 0)), "RSTRH", "hr", (0, 0)),
        (ASKED, "OTH", "Dad", (10, 30)),
        ((*OPEN, ASKED[0], ASKED[0]), "S1", "ShADT", (10, 0)),
        ((*OPEN, segment(S, ACK, 1, 1, window=0)), "S1", "ShAaw", (0, 0)),
    ],
)
def test_states_and_histories(tmp_path, packets, state, history, sent):
    connection, found = connection_of(tmp_path, *packets)
    assert found == history
    assert conn_state(IPPROTO_TCP, connection, found) == state
    assert tuple(connection["payload_bytes"].tolist()) == sent
    directions = [side for side, _ in packets]
    assert connection["packets"].tolist() == [directions.count(C), directions.count(S)]


def test_sequence_numbers_that_wrap_and_bytes_that_were_only_acknowledged(tmp_path):
    near_end = 2**32 - 1000 - 5
    connection, _ = connection_of(
        tmp_path, (C, tcp4(SYN, seq=(1000 + near_end) % 2**32, ack=0)),
        (C, tcp4(ACK, bytes(100), seq=(1001 + near_end) % 2**32, ack=1)),
        (S, tcp4(ACK, seq=1, ack=(1001 + near_end + 250) % 2**32)),
    )  # fmt: skip
    assert connection["payload_bytes"].tolist() == [250, 0]


def test_the_last_acknowledgement_of_a_closed_connection_is_not_in_its_duration(tmp_path):
    connection, _ = connection_of(tmp_path, *OPEN, *CLOSED_IN_ORDER)
    assert connection["last_ns"] == 4 * 10**9


def test_datagrams(tmp_path):
    asked, answered = (C, udp4(bytes(5))), (S, udp4(bytes(9)))
    for packets, state, history in (
        ((asked, answered), "SF", "Dd"), ((asked,), "S0", "D"), ((answered,), "SHR", "d"),
    ):  # fmt: skip
        connection, found = connection_of(tmp_path, *packets)
        assert (conn_state(IPPROTO_UDP, connection, found), found) == (state, history)
    assert connection["payload_bytes"].tolist() == [0, 9]
    assert connection["ip_bytes"].tolist() == [0, 37]


def test_pandas_reads_the_log_and_both_forms_agree(tmp_path):
    dataset = str(made_dataset(tmp_path))
    export(ExportConfig(dataset=dataset, target=str(tmp_path / "tsv"), to="zeek"))
    export(ExportConfig(dataset=dataset, target=str(tmp_path / "json"), to="zeek-json"))
    text = (tmp_path / "tsv/conn.log").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = next(line for line in text.splitlines() if line.startswith("#fields")).split("\t")[1:]
    body = io.StringIO("\n".join(lines))
    log = pd.read_csv(body, sep="\t", names=names, na_values="-", dtype={"uid": str})
    index = pd.read_parquet(tmp_path / "d/flows").set_index("flow_id")
    assert set(log["uid"]) == set(index.index)
    joined = index.loc[log["uid"]]
    assert (log["id.orig_p"].to_numpy() == joined["client_port"].to_numpy()).all()
    assert (log["label"].to_numpy() == joined["label"].to_numpy()).all()
    sent = (log["orig_pkts"] + log["resp_pkts"]).to_numpy()
    assert (sent == joined["num_packets"].to_numpy()).all()
    rows = [json.loads(line) for line in (tmp_path / "json/conn.json.log").read_text().splitlines()]
    assert len(rows) == len(log) == 6
    for row, line in zip(rows, log.to_dict("records"), strict=True):
        assert set(row) <= set(COLUMNS)
        assert all(line[name] == pytest.approx(row[name]) for name in ("ts", "orig_ip_bytes"))
        assert (line["conn_state"], line["history"]) == (row["conn_state"], row["history"])


def test_values_that_would_break_a_line_are_escaped():
    row = {"ts": 1.5, "uid": "a\tb", "proto": "tcp", "label": "-", "local_orig": True}
    values = dict(zip(COLUMNS, tsv_line(row).rstrip("\n").split("\t"), strict=True))
    assert (values["uid"], values["label"]) == ("a\\x09b", "\\x2d")
    assert (values["ts"], values["local_orig"], values["service"]) == ("1.500000", "T", "-")
    assert json.loads(json_line(row))["uid"] == "a\tb"
    assert tsv_head("x").splitlines()[6].split(b"\t")[1:] == [name.encode() for name in COLUMNS]
