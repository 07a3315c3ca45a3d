"""What `netdiff convert` writes, and what it leaves alone when it fails."""

import struct

import pytest
from packet_builders import ETHERNET_IPV4, pcap, udp4

from netdiff_ray.config import ConvertConfig
from netdiff_ray.errors import DataError
from netdiff_ray.local.convert import convert
from netdiff_ray.packets import CaptureReader

ARP = ETHERNET_IPV4[:12] + b"\x08\x06" + bytes(28)


@pytest.mark.parametrize("suffix", [".nprint", ".png"])
@pytest.mark.parametrize("data", [pcap([ARP]), pcap([])[:-1] + b"\1" + bytes(9)])
def test_a_failure_leaves_the_target_as_it_was(tmp_path, suffix, data):
    source, target = tmp_path / "no-row.pcap", tmp_path / f"keep{suffix}"
    source.write_bytes(data)
    target.write_text("kept")
    with pytest.raises(DataError, match=r"no-row\.pcap"):
        convert(ConvertConfig(source=source, target=target))
    assert target.read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [target, source]


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
def test_no_packet_is_written_longer_than_it_was_on_the_wire(tmp_path, suffix):
    data = bytearray(pcap([udp4(bytes(100)), udp4()]))
    data[24 + 12 : 24 + 16] = struct.pack("<I", 60)
    (tmp_path / "a.pcap").write_bytes(data)
    target = tmp_path / f"b{suffix}"
    convert(ConvertConfig(source=tmp_path / "a.pcap", target=target))
    (table,) = CaptureReader(target)
    assert table.caplen.tolist() == table.wirelen.tolist() == [len(udp4(bytes(100))), len(udp4())]
