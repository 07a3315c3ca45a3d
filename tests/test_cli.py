"""`netdiff convert` and `netdiff inspect` as a user runs them."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from packet_builders import (
    ETHERNET_IPV4,
    block,
    enhanced,
    interface,
    ipv4,
    pcap,
    section,
    tcp4,
    udp4,
)

from netdiff_ray.cli import VERBS, main, parsed
from netdiff_ray.config import SubmitConfig
from netdiff_ray.generation.shard_plan import apportion
from netdiff_ray.nprint.text import read_nprint
from netdiff_ray.packets import CaptureReader
from netdiff_ray.pipeline import estimate
from netdiff_ray.raster import read_png

BACK = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}
PACKETS = [tcp4(2), tcp4(0x12, **BACK), tcp4(0x10), udp4(b"abc"), udp4(sport=2000)]


@pytest.fixture
def capture(tmp_path):
    """Return a capture of three flows."""
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap([(k, 1000 * k, p) for k, p in enumerate(PACKETS)]))
    return path


def run(*arguments):
    """Return the exit code of the command line."""
    return main([str(a) for a in arguments])


def test_every_way(capture, tmp_path, capsys):
    assert run("convert", capture, tmp_path / "a.nprint") == 0
    layout, blocks, _ = read_nprint(tmp_path / "a.nprint")
    (whole,) = blocks
    assert (layout.name, whole.shape) == ("nprint", (5, 1408))
    assert run("convert", tmp_path / "a.nprint", tmp_path / "b.png") == 0
    np.testing.assert_array_equal(read_png(tmp_path / "b.png")[0], whole)
    assert run("convert", tmp_path / "b.png", tmp_path / "c.pcapng") == 0
    assert run("convert", tmp_path / "c.pcapng", tmp_path / "d.nprint") == 0
    assert (tmp_path / "d.nprint").read_bytes() == (tmp_path / "a.nprint").read_bytes()
    assert run("convert", tmp_path / "b.png", tmp_path / "e.nprint") == 0
    assert (tmp_path / "e.nprint").read_bytes() == (tmp_path / "a.nprint").read_bytes()
    assert run("convert", tmp_path / "a.nprint", tmp_path / "f.png", "--layout", "nprint-1088") == 0
    assert read_png(tmp_path / "f.png")[2].name == "nprint-1088"
    assert "5 packets" in capsys.readouterr().out


def test_a_capture_of_several_flows_gives_several_images(capture, tmp_path, capsys):
    assert run("convert", capture, tmp_path / "flow.png") == 0
    names = sorted(p.name for p in tmp_path.glob("*.png"))
    assert names == [f"flow-00000{k}.png" for k in (1, 2, 3)]
    nprint, _, layout = read_png(tmp_path / "flow-000001.png")
    assert (layout.name, len(nprint)) == ("stateful", 3)
    assert run("convert", tmp_path / "flow-000001.png", tmp_path / "one.pcap") == 0
    (table,) = CaptureReader(tmp_path / "one.pcap")
    # A second and a millisecond apart, within the time code's step.
    assert np.diff(table.ts_ns, prepend=0)[1:] == pytest.approx([1.001e9] * 2, rel=0.05)


def test_captures_keep_every_byte_and_time(capture, tmp_path):
    assert run("convert", capture, tmp_path / "a.pcapng") == 0
    assert run("convert", tmp_path / "a.pcapng", tmp_path / "b.pcap") == 0
    (table,) = CaptureReader(tmp_path / "b.pcap")
    assert [table.packet(k) for k in range(5)] == PACKETS
    assert table.ts_ns.tolist() == [k * 10**9 + k * 10**6 for k in range(5)]


def test_several_link_types_need_pcapng(tmp_path, capsys):
    data = section() + interface() + interface(101) + enhanced(1, PACKETS[0])
    data += enhanced(2, PACKETS[1][14:], 1) + enhanced(3, PACKETS[2]) + block(0x99, b"")
    (tmp_path / "m.pcapng").write_bytes(data)
    assert run("convert", tmp_path / "m.pcapng", tmp_path / "x.pcap") == 2
    assert "use .pcapng" in capsys.readouterr().err
    assert not (tmp_path / "x.pcap").exists()
    assert run("convert", tmp_path / "m.pcapng", tmp_path / "y.pcapng") == 0
    (table,) = CaptureReader(tmp_path / "y.pcapng")
    assert table.link_type.tolist() == [1, 101, 1]


def test_count_counts_skipped_records_too(tmp_path):
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    (tmp_path / "a.pcap").write_bytes(pcap([arp, *PACKETS]))
    assert run("convert", tmp_path / "a.pcap", tmp_path / "a.nprint", "--count", 3) == 0
    assert sum(len(b) for b in read_nprint(tmp_path / "a.nprint")[1]) == 2
    assert run("convert", tmp_path / "a.nprint", tmp_path / "b.nprint", "--count", 1) == 0
    assert sum(len(b) for b in read_nprint(tmp_path / "b.nprint")[1]) == 1


def test_a_cut_capture_is_read_in_part(capture, tmp_path, capsys):
    capture.write_bytes(capture.read_bytes()[:-2])
    assert run("convert", capture, tmp_path / "a.nprint") == 1
    assert sum(len(b) for b in read_nprint(tmp_path / "a.nprint")[1]) == 4
    assert "read in part" in (err := capsys.readouterr().err)
    assert "the file ends inside a record" in err
    assert run("inspect", capture) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "IN", "OUT.txt"), "the suffix '.txt' is not known"),
        (("convert", "IN", "no/such/folder/x.png"), "no such folder"),
        (("convert", "none.pcap", "OUT.png"), "cannot be opened"),
        (("convert", "IN", "OUT.png", "--layout", "wide"), "layout 'wide' is not known"),
        (("convert", "IN", "OUT.png", "--count", "0"), "count is 0; it must be at least 1"),
        (
            ("convert", "IN", "OUT.png", "--height", "100"),
            "height is 100; it must be one of 16, 32",
        ),
        (("inspect", "EMPTY"), "no file in it has a capture's suffix"),
        (("inspect", "README"), "this is text"),
    ],
)
def test_mistakes_get_a_sentence(capture, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme").write_text("not a capture")
    names = {"IN": capture, "EMPTY": tmp_path / "empty", "README": tmp_path / "readme"}
    arguments = [names.get(a, str(a).replace("OUT", str(tmp_path / "out"))) for a in arguments]
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err


def test_layouts_that_need_times_cannot_come_from_text(capture, tmp_path, capsys):
    run("convert", capture, tmp_path / "a.nprint")
    assert run("convert", tmp_path / "a.nprint", tmp_path / "b.png", "--layout", "stateful") == 2
    assert "lacks flow_retransmission, flow_sequence_hole" in capsys.readouterr().err


def test_inspect(capture, tmp_path, capsys):
    others = [bytes(12) + start + bytes(28) for start in (b"\x08\x06", b"\0\x40", b"\0\x80")]
    gre = ETHERNET_IPV4 + ipv4(bytes(8), 47, "10.0.0.1", "10.0.0.2")
    (tmp_path / "more.pcap").write_bytes(pcap([*others, gre, *PACKETS]))
    assert run("inspect", tmp_path) == 0
    text = capsys.readouterr().out
    assert "IPv4 TCP" in text
    assert "not IP: ARP" in text
    assert run("inspect", "--json", tmp_path) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert total["num_records"] == 14
    assert total["flows"] == {"IPv4 TCP": 2, "IPv4 UDP": 4}
    assert total["skipped"] == {
        "not IP: ARP": 1, "not IP: an IEEE 802.3 length, LLC": 2,
        "protocol other than TCP, UDP, ICMP, ICMPv6: GRE": 1,
    }  # fmt: skip
    assert total["link_types"] == {"ETHERNET": 14}


def test_help_is_a_line_a_verb_and_a_page_for_each(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    page = capsys.readouterr().out
    for name, config in VERBS.items():
        assert name in page
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        own = " ".join(capsys.readouterr().out.split())
        assert " ".join(config.__doc__.split()) in own
    assert "Running it again" not in page


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_shows_an_empty_default(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    page = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "(default: )" not in page
    assert "None" not in page
    assert "()" not in page


def test_the_flags_of_submit_may_stand_among_those_of_its_verb():
    command = ["submit", "generate", "A", "B", "--address", "http://h:1", "--flows", "3"]
    config = parsed([*command, "--working-dir=."])
    assert config == SubmitConfig(
        verb=("generate", "A", "B", "--flows", "3"), address="http://h:1", working_dir="."
    )


def test_a_pipeline_is_the_verbs_on_the_folders_of_one_place():
    config = parsed(
        ["pipeline", "s3://b/captures", "s3://b/out?region=x", "--labels", "dns", "web",
         "--heldout", "held", "--flows", "7", "--train-steps", "20"]
    )  # fmt: skip
    assert config.encode().target == config.train().source == "s3://b/out/encoded?region=x"
    assert config.train().labels == ("dns", "web")
    assert config.train().settings.optimization.steps == 20
    drawing = config.generate({"dns": 30, "web": 12})
    assert drawing.adapter == config.train().target
    assert (drawing.flows, drawing.weights(), drawing.draw.steps) == (7, {}, 4)
    assert config.evaluate().train == config.encode().source
    assert config.evaluate().real == "held"
    assert parsed(["pipeline", "a", "b"]).evaluate() is None


def test_a_pipeline_draws_what_it_was_trained_on_in_the_steps_of_its_base():
    trained_on = {"dns": 30, "näme=odd": 12}
    drawing = parsed(["pipeline", "a", "b"]).generate(trained_on)
    assert drawing.draw.steps == 4
    assert drawing.flows == 42
    assert apportion(drawing.flows, drawing.weights()) == trained_on
    other = parsed(["pipeline", "a", "b", "--base", "/some/sd3"])
    assert other.generate(trained_on).draw.steps == 28


def test_the_learning_rate_of_a_pipeline_follows_the_base():
    def settings(*more):
        return parsed(["pipeline", "a", "b", *more]).train().settings

    nano, other = settings(), settings("--base", "/some/sd3")
    assert nano.optimization.learning_rate == 1e-3
    assert other.optimization.learning_rate == 1e-4
    assert settings("--learning-rate", "2e-3").optimization.learning_rate == 2e-3
    assert settings("--train-minutes", "3").optimization.minutes == 3.0
    assert nano.optimization.minutes is None


def test_a_pipeline_is_estimated_before_it_begins(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    said = estimate(parsed(["pipeline", "a", "b", "--height", "64", "--train-steps", "220"]))
    assert said.startswith("on 2 CPUs about 1 min 12 s to train and 55 s for each 1,000 flows")
    limited = estimate(parsed(["pipeline", "a", "b", "--height", "64", "--train-minutes", "0.5"]))
    assert limited.startswith("on 2 CPUs about 30 s to train and 55 s for each 1,000 flows")
    other = estimate(parsed(["pipeline", "a", "b", "--base", "/some/sd3"]))
    assert other.startswith("how long it takes depends")


def test_a_pipeline_makes_windows_that_its_base_can_draw():
    def height(*more):
        return parsed(["pipeline", "captures", "out", *more]).encode().height

    assert height() == height("--base", "nano") == 256
    assert height("--base", "/some/sd3") == 1024
    assert height("--height", "64") == 64


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    (tmp_path / "web").mkdir()
    for k in range(200):
        records = [(j, j, p) for j in range(40) for p in PACKETS]
        (tmp_path / "web" / f"{k}.pcap").write_bytes(pcap(records))
    command = [sys.executable, "-m", "netdiff_ray.cli", "encode", str(tmp_path / "web")]
    with subprocess.Popen(
        [*command, str(tmp_path / "out")], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stderr.readline().startswith("encoded 0 of ")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip() == "netdiff: stopped; run the same command again to go on"


@pytest.mark.slow
def test_the_installed_command(capture):
    command = [sys.executable, "-m", "netdiff_ray.cli", "inspect", str(capture)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ETHERNET" in done.stdout
    version = subprocess.run(
        [*command[:3], "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("netdiff ")
