"""`netdiff replay` as a function: packets on a network interface, at their times.

Either a packet socket (packet(7)) sends, which counts every packet's time from the first and spins
before a packet is due, or tcpreplay, fed through a pipe, which adds up the gaps it has slept and so
stays behind once it is. Memory does not grow with the source.
"""

import errno
import fcntl
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netdiff_ray.config import ReplayConfig
from netdiff_ray.errors import CaptureError, ConfigError, StorageError
from netdiff_ray.export.merge import merged_records
from netdiff_ray.export.run import capture_spans, flow_indexes
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.linktypes import ETHERNET, link_type_name
from netdiff_ray.packets.writer import pcap_header, pcap_records
from netdiff_ray.storage.manifest import PCAP_DATASET, open_dataset
from netdiff_ray.storage.store import open_store

TOOL = "tcpreplay"
_RECORD = struct.Struct("<IIII")
_ETHERNET_BYTES, _VLAN_BYTES = 14, 4
_VLAN = b"\x81\x00"
_IFREQ_BYTES = 40
_SIOCGIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8921
"""Of netdevice(7): flags and MTU of an interface."""
_IFF_UP = 0x1
_SPIN_S = 0.0003
"""How long before a packet is due sleeping ends; sleeps end late by less."""
_PIPE_BYTES = 1 << 20
_RETRY_S = 0.0001


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What has been sent."""

    num_packets: int
    num_bytes: int
    seconds: float
    """From the first packet to the end."""
    notes: tuple[str, ...]
    """Which packets were not sent, or not whole, and why."""


class _Link(NamedTuple):
    """An interface that can be sent on."""

    name: str
    socket: socket.socket
    mtu: int

    def takes(self, frame: memoryview) -> bool:
        """Return whether a frame is no larger than the interface sends."""
        tag = _VLAN_BYTES if frame[12:14] == _VLAN else 0
        return len(frame) <= self.mtu + _ETHERNET_BYTES + tag


def replay(config: ReplayConfig) -> Replayed:
    """Send the packets of a pcap dataset or a capture on an interface, at their times.

    Packets of a dataset go in time order, those of a capture in its order; what is overdue goes
    at once.

    Raises:
        ConfigError: the interface is missing or down, the right to send on it is missing, or
            tcpreplay is.
        DatasetError: the dataset is incomplete or damaged.
        CaptureError: the capture cannot be read, or its packets are no Ethernet frames.
    """
    left_out: Counter[str] = Counter()  # 0 where how many is not known
    if config.sender == TOOL and not shutil.which(TOOL):
        raise ConfigError(f"{TOOL} is not installed; install it, or choose the sender socket")
    with _opened(config.interface) as link:
        records = _sendable(_records(config.source, left_out), link, left_out)
        send = _through_tool if config.sender == TOOL else _through_socket
        num_packets, num_bytes, seconds = send(link, records, config.speed, left_out)
    notes = tuple(f"{what}: {count:,} packets" if count else what
                  for what, count in sorted(left_out.items()))  # fmt: skip
    return Replayed(num_packets=num_packets, num_bytes=num_bytes, seconds=seconds, notes=notes)


@contextmanager
def _opened(interface: str) -> Iterator[_Link]:
    """Yield an interface to send on; raise ConfigError unless it can be."""
    if not hasattr(socket, "AF_PACKET"):
        raise ConfigError("replay sends through packet sockets, which only Linux has")
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise ConfigError(f"interface {interface}: there is none; choose one of {', '.join(names)}")
    try:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # receives nothing
    except PermissionError:
        raise ConfigError(
            f"no right to send on {interface}: run as root or with CAP_NET_RAW, or in a network "
            "namespace (unshare --user --map-root-user --net)"
        ) from None
    with link:
        (flags,) = _asked(link, interface, _SIOCGIFFLAGS, "H")
        if not flags & _IFF_UP:
            raise ConfigError(
                f"interface {interface} is down; bring it up: ip link set {interface} up"
            )
        link.bind((interface, 0))
        (mtu,) = _asked(link, interface, _SIOCGIFMTU, "i")
        yield _Link(interface, link, mtu)


def _asked(link: socket.socket, interface: str, request: int, form: str) -> tuple[int, ...]:
    """Return what the kernel says of an interface."""
    answer = fcntl.ioctl(link, request, interface.encode().ljust(_IFREQ_BYTES, b"\0"))
    return struct.unpack_from(form, answer, 16)


def _records(source: str, left_out: Counter[str]) -> Iterator[memoryview]:
    """Yield runs of nanosecond pcap records of Ethernet frames, each valid until the next."""
    if "://" not in source and not Path(source).is_dir():
        yield from _capture_records(source, left_out)
        return
    store = open_store(source)
    dataset = open_dataset(store, PCAP_DATASET)
    spans = [
        span
        for flows, captures in flow_indexes(dataset, lambda done, count: None)
        for span in capture_spans(dataset, flows, captures)
    ]
    for piece in merged_records(store, spans):
        yield piece.records


def _capture_records(source: str, left_out: Counter[str]) -> Iterator[memoryview]:
    with CaptureReader(source) as reader:
        for table in reader:
            other = table.link_type[table.link_type != ETHERNET]
            if len(other):
                name = link_type_name(int(other[0]))
                raise CaptureError(source, f"packets of link type {name}, where Ethernet is sent")
            columns = table.start, table.caplen, table.wirelen, table.ts_ns
            yield pcap_records(table.data, *columns).data
        if reader.fault:
            left_out[f"read in part: {reader.fault}"] = 0


def _sendable(
    runs: Iterator[memoryview], link: _Link, left_out: Counter[str]
) -> Iterator[tuple[int, memoryview]]:
    """Yield (time in nanoseconds, record) of the packets that an interface takes."""
    too_large = (
        f"left out, larger than the MTU of {link.name} ({link.mtu:,}; more: ip link set "
        f"{link.name} mtu BYTES)"
    )
    for run in runs:
        at = 0
        while at < len(run):
            seconds, nanoseconds, caplen, wirelen = _RECORD.unpack_from(run, at)
            record = run[at : at + _RECORD.size + caplen]
            at += len(record)
            if caplen < _ETHERNET_BYTES:
                left_out["left out, shorter than an Ethernet header"] += 1
            elif not link.takes(record[_RECORD.size :]):
                left_out[too_large] += 1
            else:
                if caplen < wirelen:
                    left_out["sent as far as they were captured"] += 1
                yield seconds * 10**9 + nanoseconds, record


def _through_tool(
    link: _Link,
    records: Iterator[tuple[int, memoryview]],
    speed: float,
    left_out: Counter[str],
) -> tuple[int, int, float]:
    """Send records through tcpreplay; return packets and bytes sent, and the seconds.

    Raises:
        StorageError: tcpreplay ends with an error.
    """
    command = [TOOL, "--quiet", f"--intf1={link.name}", f"--multiplier={speed:.6f}", "-"]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, bufsize=_PIPE_BYTES
        ) as tool:
            try:
                tool.stdin.write(pcap_header())
                for _, record in records:
                    tool.stdin.write(record)
                tool.stdin.close()
                tool.wait()
            except BrokenPipeError:
                tool.wait()
            except BaseException:
                tool.kill()
                raise
        said.seek(0)
        words = said.read().decode(errors="replace")
    sent = re.search(r"Actual: (\d+) packets \((\d+) bytes\) sent in ([\d.]+) seconds", words)
    if tool.returncode or sent is None:
        raise StorageError(f"{TOOL} on {link.name} failed: {' '.join(words.split())}")
    refused = re.search(r"Failed packets:\s+(\d+)", words)
    if refused and int(refused[1]):
        left_out[f"not taken by {link.name}"] = int(refused[1])
    return int(sent[1]), int(sent[2]), float(sent[3])


def _through_socket(
    link: _Link,
    records: Iterator[tuple[int, memoryview]],
    speed: float,
    left_out: Counter[str],
) -> tuple[int, int, float]:
    """Send records through a packet socket; return packets and bytes sent, and the seconds."""
    num_packets = num_bytes = 0
    begin_s = first_ns = None
    for ts_ns, record in records:
        if first_ns is None:
            begin_s, first_ns = time.perf_counter(), ts_ns
        _wait_until(begin_s + (ts_ns - first_ns) / 1e9 / speed)
        frame = record[_RECORD.size :]
        _send(link, frame)
        num_packets += 1
        num_bytes += len(frame)
    return num_packets, num_bytes, 0.0 if begin_s is None else time.perf_counter() - begin_s


def _wait_until(due_s: float) -> None:
    """Return when `time.perf_counter` is there."""
    left_s = due_s - time.perf_counter()
    if left_s > _SPIN_S:
        time.sleep(left_s - _SPIN_S)
    while time.perf_counter() < due_s:
        pass


def _send(link: _Link, frame: memoryview) -> None:
    """Send a frame, again while the interface's queue is full."""
    while True:
        try:
            link.socket.send(frame)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise StorageError(
                    f"cannot send on {link.name}: {error.strerror}; look at ip link show "
                    f"{link.name}"
                ) from None
            time.sleep(_RETRY_S)
