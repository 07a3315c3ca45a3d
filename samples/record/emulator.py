"""The link between clients and servers: delay, jitter, rate, queue, loss, reordering, hops.

It runs in user space on TUN devices, so it needs no kernel module. Packets are taken as
they are; only the TTL is lowered by the hops of the way, with its checksum (RFC 1624).
"""

import fcntl
import heapq
import itertools
import os
import random
import select
import signal
import struct
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from scenario import Link

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
HOLD_MS = (4.0, 25.0)
"""How long a reordered packet is held back, from and to."""


def open_tun(name: str) -> int:
    """Return the file descriptor of a new TUN device without packet information."""
    tun_fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun_fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun_fd


def destination(packet: bytearray) -> bytes:
    """Return the packet's destination address, 4 or 16 bytes; empty if it is not IP."""
    if packet[0] >> 4 == 4:
        return bytes(packet[16:20])
    return bytes(packet[24:40]) if packet[0] >> 4 == 6 else b""


def lower_ttl(packet: bytearray, hops: int) -> bool:
    """Lower the packet's TTL in place; return whether it survives that many routers."""
    at = 8 if packet[0] >> 4 == 4 else 7
    if packet[at] <= hops:
        return False
    if at == 8:
        old = packet[8] << 8 | packet[9]
        total = (~int.from_bytes(packet[10:12]) & 0xFFFF) + (~old & 0xFFFF) + old - (hops << 8)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        packet[10:12] = (~total & 0xFFFF).to_bytes(2)
    packet[at] -= hops
    return True


@dataclass
class Direction:
    """One way of one host's link, with the state of its queue."""

    link: Link
    rate_kbit: int
    rng: random.Random
    free_s: float = 0.0
    """When the last queued packet will have left."""
    last_due_s: float = 0.0
    losing: bool = False
    cut: bool = False

    def due_s(self, now_s: float, num_bytes: int) -> float | None:
        """Return when a packet that arrives now comes out at the other end; None if lost."""
        link, rng = self.link, self.rng
        self.losing = rng.random() < (link.burst if self.losing else link.loss)
        wait_s = max(0.0, self.free_s - now_s)
        if self.cut or self.losing or wait_s > link.queue_ms / 1e3:
            return None
        self.free_s = now_s + wait_s + num_bytes * 8 / (self.rate_kbit * 1e3)
        jitter_ms = min(2.5 * link.jitter_ms, rng.expovariate(1 / link.jitter_ms))
        due_s = self.free_s + (link.delay_ms + jitter_ms) / 1e3
        if rng.random() < link.reorder:
            return due_s + rng.uniform(*HOLD_MS) / 1e3
        self.last_due_s = max(due_s, self.last_due_s)
        return self.last_due_s


def emulate(ways: dict[int, dict[bytes, tuple[int, Direction]]], orders: Connection) -> None:
    """Carry packets until the orders' other end closes.

    Args:
        ways: for each TUN descriptor, by destination address (4 or 16 bytes), the descriptor
            its packets go to and the direction of the link they pass.
        orders: takes the numbers of TUN descriptors whose links are cut from now on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    waiting: list[tuple[float, int, int, bytes]] = []
    count = itertools.count()
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*ways, orders], [], [], timeout_s)
        for source in ready:
            if source is orders:
                try:
                    cut_fd = orders.recv()
                except EOFError:
                    return
                for by_destination in ways.values():
                    for target, way in by_destination.values():
                        way.cut |= target == cut_fd or by_destination is ways[cut_fd]
                continue
            for packet in read_all(source):
                target, way = ways[source].get(destination(packet), (None, None))
                if way is None or not lower_ttl(packet, way.link.hops):
                    continue
                due_s = way.due_s(time.monotonic(), len(packet))
                if due_s is not None:
                    heapq.heappush(waiting, (due_s, next(count), target, bytes(packet)))
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            _, _, target, packet = heapq.heappop(waiting)
            try:
                os.write(target, packet)
            except OSError:
                continue  # the device has just been taken down: a lost packet like any other


def read_all(tun_fd: int) -> list[bytearray]:
    """Return the packets that wait in a TUN device now, at most 64."""
    packets = []
    while len(packets) < 64:
        try:
            packets.append(bytearray(os.read(tun_fd, 65536)))
        except OSError:
            break
    return packets
