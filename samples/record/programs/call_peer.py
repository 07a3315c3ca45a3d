"""One side of a video call with aiortc.

    call_peer.py answer SOCKET
    call_peer.py call SOCKET OWN_ADDRESS PEER_ADDRESS SEED CALLS

Offers and answers go through a local socket, as through a web service elsewhere; the media
goes from address to address.
"""

import asyncio
import fractions
import json
import random
import sys
import time

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import vpx
from aiortc.contrib.media import MediaBlackhole
from aiortc.mediastreams import MediaStreamTrack

vpx.PACKET_MAX = 1100  # bytes of a picture in one packet: fits the smallest MTU, 1280


class Camera(MediaStreamTrack):
    """A moving picture, `fps` times a second."""

    kind = "video"

    def __init__(self, fps: int, width: int):
        super().__init__()
        self.fps, self.width, self.count, self.begin_s = fps, width, 0, time.monotonic()
        self.picture = np.random.default_rng(width).integers(
            0, 255, (width * 3 // 4, width, 3), np.uint8
        )

    async def recv(self) -> av.VideoFrame:
        """Return the next picture, when its time has come."""
        await asyncio.sleep(max(0.0, self.begin_s + self.count / self.fps - time.monotonic()))
        self.count += 1
        smooth = np.roll(self.picture, self.count, 1) // 8 + (self.count * 3) % 200
        frame = av.VideoFrame.from_ndarray(smooth.astype(np.uint8), format="rgb24")
        frame.pts = int(self.count * 90000 / self.fps)
        frame.time_base = fractions.Fraction(1, 90000)
        return frame


class Microphone(MediaStreamTrack):
    """Noise that swells and fades, 20 ms at a time."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.count, self.begin_s = 0, time.monotonic()
        self.noise = np.random.default_rng(self.count).normal(0, 3000, 960)

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms, when their time has come."""
        await asyncio.sleep(max(0.0, self.begin_s + self.count / 50 - time.monotonic()))
        self.count += 1
        samples = (self.noise * abs(np.sin(self.count / 11))).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48000
        frame.pts = self.count * 960
        frame.time_base = fractions.Fraction(1, 48000)
        return frame


def only(description: str, address: str) -> str:
    """Return the session description without the candidates of other addresses."""
    lines = [
        line
        for line in description.splitlines()
        if not line.startswith("a=candidate") or f" {address} " in line
    ]
    return "\r\n".join(lines) + "\r\n"


def new_peer(tracks: list[str], fps: int, width: int) -> RTCPeerConnection:
    """Return a peer that sends these kinds of tracks."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in tracks:
        peer.addTrack(Camera(fps, width) if kind == "video" else Microphone())
    return peer


async def consume(peer: RTCPeerConnection) -> None:
    """Play what the other side sends into nothing."""
    hole = MediaBlackhole()
    for receiver in peer.getReceivers():
        hole.addTrack(receiver.track)
    await hole.start()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take one call; it lasts until the caller's word stream ends."""
    offer = json.loads(await reader.readline())
    peer = new_peer(offer["tracks"], offer["fps"], offer["width"])
    try:
        await peer.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        reply = only(peer.localDescription.sdp, offer["peer"])
        writer.write(json.dumps({"sdp": reply}).encode() + b"\n")
        await consume(peer)
        await reader.read()
        await asyncio.sleep(0.4)
    finally:
        await peer.close()
        writer.close()


async def call(socket: str, own: str, other: str, rng: random.Random) -> None:
    """Make one call of a few seconds."""
    tracks = rng.choice((["video"], ["video"], ["audio", "video"]))
    settings = {
        "tracks": tracks,
        "fps": rng.choice((5, 8, 10, 15)),
        "peer": other,
        "width": rng.choice((64, 96, 128, 160)),
    }
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
    peer = new_peer(tracks, settings["fps"], settings["width"])
    try:
        await peer.setLocalDescription(await peer.createOffer())
        settings["sdp"] = only(peer.localDescription.sdp, own)
        writer.write(json.dumps(settings).encode() + b"\n")
        reply = json.loads(await asyncio.wait_for(reader.readline(), 5))
        await peer.setRemoteDescription(RTCSessionDescription(reply["sdp"], "answer"))
        await consume(peer)
        for _ in range(100):
            if peer.connectionState not in ("new", "connecting"):
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(min(6.0, rng.lognormvariate(-0.9, 0.7)))
    finally:
        await peer.close()
        writer.close()


async def main() -> None:
    """Answer for ever, or make that many calls."""
    if sys.argv[1] == "answer":
        server = await asyncio.start_unix_server(answer, sys.argv[2], limit=1 << 20)
        await server.serve_forever()
    socket, own, other, seed, calls = sys.argv[2:]
    rng = random.Random(seed)
    for _ in range(int(calls)):
        await call(socket, own, other, rng)


if __name__ == "__main__":
    asyncio.run(main())
