"""pcap and pcapng containers: every variant reads the same, every fault has its words."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from backports import zstd
from packet_builders import block, enhanced, interface, pcap, read, section, udp4

from netdiff_ray.errors import CaptureError
from netdiff_ray.packets import CaptureReader, Reason, container

PACKETS = [(1_700_000_000 + k, 123_456, udp4(bytes(k))) for k in range(5)]
TIMES_NS = [(1_700_000_000 + k) * 10**9 + 123_456_000 for k in range(5)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "scale", "extra"),
    [(0xA1B2C3D4, 1, b""), (0xA1B23C4D, 1000, b""), (0xA1B2CD34, 1, bytes(8))],
    ids=["microseconds", "nanoseconds", "modified"],
)
def test_pcap_variants(tmp_path, order, magic, scale, extra):
    packets = [(s, f * scale, d) for s, f, d in PACKETS]
    data = pcap(packets, order=order, magic=magic, extra=extra)
    reader, columns, rows = read(tmp_path / "c", data)
    assert columns["ts_ns"].tolist() == TIMES_NS
    assert (columns["reason"] == Reason.OK).all()
    assert columns["caplen"].tolist() == [len(d) for _, _, d in PACKETS]
    assert rows["transport_len"].tolist() == [8] * 5
    assert reader.fault is None
    assert reader.format == "pcap"


def test_frame_check_bits_are_no_part_of_the_link_type(tmp_path):
    _, columns, rows = read(tmp_path / "c", pcap(PACKETS, link_type=0x2400_0001))
    assert columns["link_type"].tolist() == [1] * 5
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("compress", "name"),
    [
        (gzip.compress, "gzip"),
        (bz2.compress, "bz2"),
        (lzma.compress, "xz"),
        (zstd.compress, "zstd"),
    ],
)
def test_compression_is_known_by_content(tmp_path, compress, name):
    halves = pcap(PACKETS[:3]), b"".join(pcap([p])[24:] for p in PACKETS[3:])
    members = b"".join(map(compress, halves))  # consecutive members form a single stream
    reader, columns, _ = read(tmp_path / "no.suffix", members)
    assert reader.compression == name
    assert columns["ts_ns"].tolist() == TIMES_NS
    cut, columns, _ = read(tmp_path / "cut", members[:-5])
    assert name in str(cut.fault)
    assert len(columns["ts_ns"]) >= 3


def content_bytewise(decompressor, data):
    """Return what a decompressor gives when fed byte by byte until it refuses."""
    pieces = []
    for k in range(len(data)):
        try:
            pieces.append(decompressor.decompress(data[k : k + 1]))
        except (OSError, zlib.error, lzma.LZMAError):
            return b"".join(pieces)
    raise AssertionError("the damage was not noticed")


@pytest.mark.parametrize(
    ("compress", "new", "name"),
    [
        (gzip.compress, lambda: zlib.decompressobj(31), "gzip"),
        (lambda data: bz2.compress(data, 1), bz2.BZ2Decompressor, "bz2"),
        (lzma.compress, lzma.LZMADecompressor, "xz"),
    ],
)
def test_records_before_damage_are_read(tmp_path, compress, new, name):
    random = np.random.default_rng(2)
    data = bytearray(compress(pcap([udp4(random.bytes(80)) for _ in range(2500)])))
    middle = len(data) * 3 // 4
    data[middle : middle + 40] = bytes(40)
    content = content_bytewise(new(), bytes(data))
    _, expected, _ = read(tmp_path / "content", content)
    reader, columns, _ = read(tmp_path / "c", bytes(data))
    assert len(expected["ts_ns"]) > 300
    assert columns["offset"].tolist() == expected["offset"].tolist()
    assert f"at byte {len(content):,}" in str(reader.fault)
    assert f"the {name} stream is damaged" in str(reader.fault)


def test_compressions_in_one_another_are_read_through(tmp_path):
    data = gzip.compress(gzip.compress(pcap(PACKETS)))
    reader, columns, _ = read(tmp_path / "c.pcap.gz", data)
    assert columns["ts_ns"].tolist() == TIMES_NS
    assert reader.compression == "gzip in gzip"
    reader, columns, _ = read(tmp_path / "c", lzma.compress(zstd.compress(pcap(PACKETS))))
    assert columns["ts_ns"].tolist() == TIMES_NS
    assert reader.compression == "zstd in xz"
    for _ in range(3):
        data = gzip.compress(data)
    assert "compressed more than 4 times" in fault_of(tmp_path / "c", data)[1]


def archives():
    """Return {name: bytes} of archives that hold a capture."""
    with io.BytesIO() as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.pcap", pcap(PACKETS))
        archive.close()
        zipped = file.getvalue()
    with io.BytesIO() as file, tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.pcap")
        info.size = len(pcap(PACKETS))
        archive.addfile(info, io.BytesIO(pcap(PACKETS)))
        archive.close()
        tarred = file.getvalue()
    seven = b"7z\xbc\xaf\x27\x1c" + bytes(40)
    return {"zip": zipped, "tar": tarred, "7z": seven}


@pytest.mark.parametrize("kind", ["zip", "tar", "7z"])
def test_archives_are_named(tmp_path, kind):
    data = archives()[kind]
    for content in (data, gzip.compress(data)):
        assert f"this is a {kind} archive; unpack it" in fault_of(tmp_path / "c", content)[1]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_resolutions_offsets_and_interfaces(tmp_path, order):
    def tsresol(value):
        return struct.pack(order + "HHB3x", 9, 1, value)

    def tsoffset(seconds):
        return struct.pack(order + "HHq", 14, 8, seconds)

    packet = udp4()
    data = section(order) + b"".join((
        interface(order=order),  # microseconds by default
        interface(options=tsresol(9), order=order),
        interface(options=tsresol(0x80 | 20), order=order),
        interface(options=tsresol(12) + tsoffset(-100), order=order),
        interface(link_type=101, options=tsresol(0), order=order),
        enhanced(1_000_001, packet, 0, order),
        block(0x0BAD, b"unknown blocks are skipped", order),
        enhanced(1_000_000_002, packet, 1, order),
        enhanced((3 << 20) + (1 << 19), packet, 2, order),
        enhanced(200_000_000_000_999, packet, 3, order),
        enhanced(7, packet[14:], 4, order),
        block(3, struct.pack(order + "I", len(packet)) + packet, order),
        block(2, struct.pack(order + "HHIIII", 1, 0, 0, 42, len(packet), 99) + packet, order),
    ))  # fmt: skip
    _, columns, rows = read(tmp_path / "c", data)
    assert columns["ts_ns"].tolist() == [
        1_000_001_000, 1_000_000_002, 3_500_000_000, 100_000_000_000, 7 * 10**9, 7 * 10**9, 42,
    ]  # fmt: skip
    assert columns["link_type"].tolist() == [1, 1, 1, 1, 101, 1, 1]
    assert columns["wirelen"][-1] == 99
    assert len(rows) == 7


def test_simple_blocks_before_any_time_take_the_first(tmp_path):
    packet = udp4()
    simple = block(3, struct.pack("<I", len(packet)) + packet)
    start = section() + interface()
    _, columns, _ = read(tmp_path / "c", start + simple * 2 + enhanced(5, packet) + simple)
    assert columns["ts_ns"].tolist() == [5000] * 4
    reader, columns, _ = read(tmp_path / "d", start + simple * 3)
    assert columns["ts_ns"].tolist() == [0] * 3
    assert reader.notes == {}


def test_times_that_no_column_holds_are_noted(tmp_path):
    packet = udp4()
    data = b"".join((
        section(),
        interface(options=struct.pack("<HHq", 14, 8, -100)),  # if_tsoffset
        interface(options=struct.pack("<HHB3x", 9, 1, 0)),  # if_tsresol
        enhanced(50_000_000, packet, 0),
        enhanced(200_000_000, packet, 0),
        enhanced(1 << 63, packet, 1),
        enhanced(1 << 63, packet, 1, caplen=len(packet) + 4),
    ))  # fmt: skip
    reader, columns, _ = read(tmp_path / "c", data)
    assert columns["ts_ns"].tolist() == [0, 100 * 10**9, *[np.iinfo(np.int64).max] * 2]
    assert columns["caplen"].tolist() == [len(packet)] * 3 + [len(packet) + 2]
    words = "times before 1970 or after 2262, read as the first or the last of these years"
    assert reader.notes[words][0] == 3
    assert reader.notes["packet blocks that claim more captured bytes than they hold"][0] == 1


def test_pcapng_sections_of_both_byte_orders(tmp_path):
    packet = udp4()
    data = b"".join(
        section(order) + interface(order=order) + enhanced(k, packet, 0, order)
        for k, order in enumerate("<><")
    )
    _, columns, _ = read(tmp_path / "c", data)
    assert columns["ts_ns"].tolist() == [0, 1000, 2000]


def test_chunks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("netdiff_ray.packets.capture.CHUNK_BYTES", 4096)
    monkeypatch.setattr("netdiff_ray.packets.capture._MAX_RECORDS", 7)
    packets = [(k, 0, udp4(bytes(k % 1400))) for k in range(3000)]
    packets[1500] = (1500, 0, udp4(bytes(60_000)))  # larger than the buffer
    for data in (pcap(packets), section() + interface() + b"".join(
        enhanced(s * 10**6, d) for s, _, d in packets
    )):  # fmt: skip
        reader, columns, rows = read(tmp_path / "c", data)
        assert columns["ts_ns"].tolist() == [k * 10**9 for k in range(3000)]
        assert len(rows) == 3000
        assert reader.fault is None


def fault_of(path, data):
    """Return (records read, the fault's text) of a capture with these bytes."""
    try:
        reader, columns, _ = read(path, data)
    except CaptureError as error:
        return 0, str(error)
    return len(columns["ts_ns"]), str(reader.fault)


WHOLE = pcap(PACKETS)
NG = section() + interface() + enhanced(1, udp4()) + enhanced(2, udp4())


@pytest.mark.parametrize(
    ("data", "num_records", "words"),
    [
        (b"", 0, "the file is empty"),
        (b"\xd4\xc3", 0, "2 bytes, less than a magic number"),
        (b"hello, this is no capture at all", 0, "this is text ('hello, this is n'"),
        (b"\x7fELF" + bytes(90), 0, "magic number 7f454c46 is that of no capture format"),
        (WHOLE[:20], 0, "pcap file header cut: 20 of 24 bytes"),
        (WHOLE[:4] + b"\x09\x00" + WHOLE[6:], 0, "pcap version 9.4"),
        (WHOLE[:-3], 4, "the file ends inside a record, after 43 of its 46 bytes at byte 262"),
        (WHOLE + b"\0" * 9, 5, "the file ends inside a record header, 9 bytes into it"),
        (WHOLE + struct.pack("<IIII", 0, 0, 1 << 30, 1), 5, "claims 1,073,741,824 captured bytes"),
        (NG[:-5], 1, "the file ends inside a block"),
        (NG[:-4] + bytes(4), 2, "the two lengths of a block differ"),
        (NG + struct.pack("<III", 6, 13, 0), 2, "a block claims 13 bytes"),
        (NG[:8] + b"\1\2\3\4" + NG[12:], 0, "byte-order magic 01020304"),
        (NG[:12] + b"\7" + NG[13:], 0, "pcapng version 7.0"),
    ],
    ids=lambda v: v[:24] if isinstance(v, str) else "",
)
def test_each_fault_has_its_words_and_keeps_what_was_read(tmp_path, data, num_records, words):
    count, text = fault_of(tmp_path / "c.pcap", data)
    assert count == num_records
    assert words in text
    assert "at byte" in text


def test_fault_offsets_count_from_the_start_of_the_capture(tmp_path, monkeypatch):
    monkeypatch.setattr("netdiff_ray.packets.capture.CHUNK_BYTES", 4096)
    packets = [udp4(bytes(500)) for _ in range(50)]
    whole = pcap(packets)
    (tmp_path / "c").write_bytes(whole[:-1])
    reader = CaptureReader(tmp_path / "c")
    offsets = np.concatenate([table.offset.copy() for table in reader])
    size = 16 + len(packets[0])
    assert offsets.tolist() == [24 + size * k for k in range(49)]
    assert reader.fault.offset == 24 + size * 49


def test_oddities_are_noted_and_read(tmp_path):
    packets = [(5, 0, udp4()), (4, 0, b""), (6, 0, udp4(bytes(300)))]
    data = bytearray(pcap(packets, snaplen=100))
    data[24 + 12 : 24 + 16] = struct.pack("<I", 1)  # the first record's wire length
    reader, columns, _ = read(tmp_path / "c", bytes(data))
    assert columns["reason"].tolist() == [Reason.OK, Reason.EMPTY, Reason.OK]
    assert {words: count for words, (count, _) in reader.notes.items()} == {
        "records of no bytes": 1,
        "records longer than the snap length": 1,
        "records with more bytes captured than were on the wire": 1,
        "times that go back": 1,
    }
    assert reader.notes["times that go back"][1] == 24 + 16 + len(udp4())


def test_packet_blocks_beyond_their_interface_or_size_are_noted(tmp_path):
    data = section() + interface() + enhanced(1, udp4(), 9) + enhanced(2, udp4(), caplen=500)
    reader, columns, _ = read(tmp_path / "c", data)
    assert columns["reason"].tolist() == [Reason.BAD_INTERFACE, Reason.OK]
    assert any("claim more captured bytes" in words for words in reader.notes)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CaptureError, match="cannot be opened: No such file"):
        CaptureReader(tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match="directory"):
        CaptureReader(tmp_path)


def test_a_bomb_costs_no_memory(tmp_path):
    bomb = gzip.compress(pcap([]) + bytes(64 << 20), 1)  # zeros: four million empty records
    (tmp_path / "bomb").write_bytes(bomb)
    (tmp_path / "small").write_bytes(pcap([udp4()]))
    list(CaptureReader(tmp_path / "small"))  # the kernels are compiled, which takes memory
    tracemalloc.start()
    try:
        count = sum(len(table) for table in CaptureReader(tmp_path / "bomb"))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == (64 << 20) // 16
    assert most_bytes < 16 << 20


def offsets_in(path, byte_range):
    """Return (offsets of the records read, first, next, fault) of a byte range."""
    reader = CaptureReader(path, byte_range=byte_range)
    offsets = [o for table in reader for o in table.offset.tolist()]
    return offsets, reader.first_offset, reader.next_offset, reader.fault


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("seed", range(4))
def test_byte_ranges_meet_and_miss_nothing(tmp_path, order, seed):
    random = np.random.default_rng(seed)
    packets = [
        (1_700_000_000 + k, k, udp4(random.bytes(int(n))))
        for k, n in enumerate(random.integers(0, 900, 800))
    ]
    data = pcap(packets, order=order)
    path = tmp_path / "c"
    path.write_bytes(data)
    whole = offsets_in(path, (0, len(data)))[0]
    assert len(whole) == 800
    cuts = [0, *sorted(random.integers(1, len(data), 6).tolist()), len(data)]
    joined, meets = [], 24
    for begin, end in itertools.pairwise(cuts):
        offsets, first, after, fault = offsets_in(path, (begin, end))
        assert fault is None
        assert first == meets
        meets = after
        joined += offsets
    assert joined == whole
    assert meets == len(data)


def test_a_byte_range_ends_at_a_fault(tmp_path):
    data = bytearray(pcap([udp4(bytes(200))] * 100))
    size = (len(data) - 24) // 100
    data[24 + 50 * size + 8 : 24 + 50 * size + 12] = b"\xff\xff\xff\x7f"
    (tmp_path / "c").write_bytes(data)
    offsets, _, after, fault = offsets_in(tmp_path / "c", (0, 24 + 60 * size))
    assert len(offsets) == 50
    assert after == fault.offset == 24 + 50 * size
    offsets, first, _, fault = offsets_in(tmp_path / "c", (24 + 55 * size - 3, len(data)))
    assert first == 24 + 55 * size
    assert len(offsets) == 45
    assert fault is None


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_pipe_is_read(tmp_path, compress):
    """Of the command line: `netdiff inspect <(zcat x.pcap.gz)`."""
    count = "import sys; from netdiff_ray.packets import CaptureReader as C; " + (
        "print(sum(len(table) for table in C('/dev/stdin')))"
    )
    content = compress(pcap(PACKETS))
    done = subprocess.run(
        [sys.executable, "-c", count], input=content, capture_output=True, check=True
    )
    assert int(done.stdout) == len(PACKETS)


def test_a_fifo_is_read_once_it_has_a_writer(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(container, "WRITER_WAIT_S", 0.1)
    with pytest.raises(CaptureError, match="a FIFO that nothing has written to"):
        CaptureReader(fifo)
    monkeypatch.setattr(container, "WRITER_WAIT_S", 30)
    writer = threading.Thread(target=fifo.write_bytes, args=[pcap(PACKETS)])
    writer.start()
    with CaptureReader(fifo) as reader:
        assert sum(len(table) for table in reader) == len(PACKETS)
    writer.join()


def test_a_fifo_whose_writer_is_slow_is_waited_for(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(container, "WRITER_WAIT_S", 0.2)
    connected = threading.Event()

    def write_late():
        with open(os.open(fifo, os.O_RDWR), "wb") as file:  # O_RDWR does not wait for a reader
            connected.set()
            threading.Event().wait(0.6)
            file.write(pcap(PACKETS))

    writer = threading.Thread(target=write_late)
    writer.start()
    connected.wait()
    with CaptureReader(fifo) as reader:
        assert sum(len(table) for table in reader) == len(PACKETS)
    writer.join()
