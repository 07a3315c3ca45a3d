"""Telephone calls: SIPp on both sides, SIP over UDP or TCP and the voice as RTP both ways."""

import random
from pathlib import Path

from act import ActContext, Run
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {"sipp": "sip-tester"}
PYPI: dict[str, str] = {}
FILTER = "udp or tcp port 5060"
SNAP_BYTES = 64
PORTS = (5060,)
FLOWS_PER_ACT = 2.0
AT_ONCE = 12
PAUSE_S = 0.6
CODECS = {
    0: ("PCMU/8000", 160),
    8: ("PCMA/8000", 160),
    9: ("G722/8000", 160),
    18: ("G729/8000", 20),
}
"""RTP payload type: its name and its bytes in 20 ms (RFC 3551)."""
SAYS = (("180 Ringing",), (), ("100 Trying", "180 Ringing"), ("183 Session Progress",))
"""What a server says before it answers."""
FOLDER = Path(__file__).parent.parent / "programs"


def prepare(shared: Path, rng: random.Random) -> None:
    """Write ten seconds of noise as each codec would send it."""
    for kind, (_, num_bytes) in CODECS.items():
        (shared / f"voice-{kind}.raw").write_bytes(rng.randbytes(num_bytes * 500))


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start SIPp, which answers calls and echoes the voice, for each family and transport."""
    answer = (FOLDER / "sip_answer.xml").read_text()
    answer = answer.replace("RINGING_MS", str((300, 900, 50)[server.index % 3]))
    provisional = (FOLDER / "sip_provisional.xml").read_text()
    ringing = [provisional.replace("STATUS", text) for text in SAYS[server.index % len(SAYS)]]
    answer = answer.replace("<!-- PROVISIONAL -->", "".join(ringing))
    (work / "answer.xml").write_text(answer)
    for number, address in enumerate((server.v4, server.v6)):
        for transport in ("u1", "t1"):
            media_port = 6000 + 1000 * number + 500 * (transport == "t1")
            testbed.start(
                server,
                [
                    "sipp",
                    "-sf",
                    str(work / "answer.xml"),
                    "-i",
                    address,
                    "-mi",
                    address,
                    "-p",
                    "5060",
                    "-mp",
                    str(media_port),
                    "-rtp_echo",
                    "-t",
                    transport,
                    "-nostdin",
                ],
                log=work / "log.txt",
            )


def act(context: ActContext) -> list[Run]:
    """Return the processes of a call."""
    rng = context.rng
    shared = context.work.parent / "shared"
    kind = rng.choice((0, 0, 8, 9, 18, 18))
    call = (FOLDER / "sip_call.xml").read_text()
    talk_ms = int(min(6000, rng.lognormvariate(6.7, 0.6)))
    for name, value in {
        "VOICE": f"{shared}/voice-{kind}.raw,-1,{kind}",
        "CODEC": str(kind),
        "RTPMAP": CODECS[kind][0],
        "TALK_MS": str(talk_ms),
        "CALLER": rng.choice(WORDS),
        "CALLED": rng.choice(WORDS) + "-" * rng.randint(0, 1),
        "AGENT": " ".join(rng.choices(WORDS, k=rng.randint(1, 8))),
        "SUBJECT": " ".join(rng.choices(WORDS, k=rng.randint(1, 30))),
    }.items():
        call = call.replace(f"%{name}%", value)
    sip_scenario = context.work / f"call-{context.number}.xml"
    sip_scenario.write_text(call)
    address = context.client.v4 if context.family == 4 else context.client.v6
    target = context.address if context.family == 4 else f"[{context.address}]"
    media_port = rng.randrange(10000, 30000, 2)
    argv = [
        "sipp",
        f"{target}:5060",
        "-sf",
        str(sip_scenario),
        "-m",
        "1",
        "-i",
        address,
        "-mi",
        address,
        "-p",
        str(rng.choice((5060, rng.randint(10000, 60000)))),
        "-mp",
        str(media_port),
        "-t",
        "t1" if rng.random() < 0.35 else "u1",
        "-nostdin",
        "-timeout",
        "20s",
    ]
    return [Run(argv=argv)]
