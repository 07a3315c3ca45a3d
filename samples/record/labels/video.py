"""Adaptive video: HLS and DASH by nginx, played in real time by ffmpeg, mpv and GStreamer."""

import random
import subprocess
from pathlib import Path

from act import ActContext, Run
from nginx import serve_nginx
from scenario import Server
from testbed import Testbed

DEBIAN = {
    "nginx": "nginx",
    "ffmpeg": "ffmpeg",
    "mpv": "mpv",
    "gst-launch-1.0": "gstreamer1.0-tools gstreamer1.0-plugins-good"
    " gstreamer1.0-plugins-bad gstreamer1.0-libav",
}
PYPI: dict[str, str] = {}
FILTER = "tcp port 80 or tcp port 443"
SNAP_BYTES = 100
PORTS = (80, 443)
FLOWS_PER_ACT = 5.0
AT_ONCE = 6
PAUSE_S = 0.8
TITLES = {"film": (1, (20, 60, 140)), "match": (2, (30, 90, 200)), "lesson": (3, (15, 40, 100))}
"""Each title's segment length in s and its variants' rates in kbit/s."""


def prepare(shared: Path, rng: random.Random) -> None:
    """Encode the titles, 24 s each, three variants, as HLS and as DASH."""
    for title, (segment_s, rates) in TITLES.items():
        folder = shared / "media" / title
        (folder / "dash").mkdir(parents=True)
        maps, options = [], []
        for number, rate in enumerate(rates):
            maps += ["-map", "0:v"]
            options += [
                f"-b:v:{number}",
                f"{rate}k",
                f"-maxrate:v:{number}",
                f"{rate}k",
                f"-bufsize:v:{number}",
                f"{rate}k",
                f"-s:v:{number}",
                f"{64 * (number + 1)}x{36 * (number + 1)}",
            ]
        common = [
            "ffmpeg",
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=192x108:rate=10",
            "-t",
            "24",
            *maps,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-g",
            str(segment_s * 10),
            "-sc_threshold",
            "0",
            *options,
        ]
        subprocess.run(
            [
                *common,
                "-f",
                "hls",
                "-hls_time",
                str(segment_s),
                "-hls_playlist_type",
                "vod",
                "-master_pl_name",
                "master.m3u8",
                "-var_stream_map",
                " ".join(f"v:{number}" for number in range(len(rates))),
                str(folder / "v%v" / "index.m3u8"),
            ],
            check=True,
        )
        subprocess.run(
            [
                *common,
                "-f",
                "dash",
                "-seg_duration",
                str(segment_s),
                "-adaptation_sets",
                "id=0,streams=v",
                str(folder / "dash" / "main.mpd"),
            ],
            check=True,
        )


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start an nginx over the titles."""
    serve_nginx(testbed, server, work, shared / "media", tls)


def act(context: ActContext) -> list[Run]:
    """Return the process of a viewer who watches for some seconds."""
    rng = context.rng
    title = rng.choice(list(TITLES))
    scheme = rng.choice(("http",) * 17 + ("https",))
    seconds = str(rng.choice((3, 4, 5, 7)))
    playlist = rng.choice(("master.m3u8", "master.m3u8", "dash/main.mpd"))
    url = f"{scheme}://{context.name}/{title}/{playlist}"
    kind = rng.random()
    if kind < 0.35:
        return [
            Run(
                argv=[
                    "ffmpeg",
                    "-v",
                    "error",
                    "-nostdin",
                    "-re",
                    "-i",
                    url,
                    "-t",
                    seconds,
                    "-map",
                    "0:v:0",
                    "-c",
                    "copy",
                    "-f",
                    "null",
                    "-",
                ]
            )
        ]
    if kind < 0.7:
        return [
            Run(
                argv=[
                    "mpv",
                    "--no-config",
                    "--really-quiet",
                    "--vo=null",
                    "--ao=null",
                    f"--end={seconds}",
                    f"--cache-secs={rng.choice((2, 5, 10))}",
                    f"--hls-bitrate={rng.choice(('no', 'max', '60000'))}",
                    url,
                ]
            )
        ]
    plain = url.replace("https:", "http:")
    demuxer = "dashdemux" if playlist.endswith("mpd") else "hlsdemux"
    return [
        Run(
            argv=[
                "timeout",
                "-s",
                "INT",
                str(int(seconds) + 1),
                "gst-launch-1.0",
                "-q",
                "souphttpsrc",
                f"location={plain}",
                "!",
                demuxer,
                f"connection-speed={rng.choice((0, 0, 120, 40))}",
                "!",
                "queue",
                "!",
                "decodebin",
                "!",
                "fakesink",
                "sync=true",
            ]
        )
    ]
