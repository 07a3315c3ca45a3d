"""Telemetry: mosquitto, with mosquitto_pub, mosquitto_sub and paho on the devices."""

import random
from pathlib import Path

from act import ActContext, Run, python
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
}
PYPI = {"paho": "paho-mqtt"}
FILTER = "tcp port 1883 or tcp port 8883"
SNAP_BYTES = 100
PORTS = (1883, 8883)
FLOWS_PER_ACT = 1.6
AT_ONCE = 14
PAUSE_S = 0.6
TLS_SHARE = 0.06


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: devices measure."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a mosquitto, plain on 1883 and with TLS on 8883."""
    conf = work / "mosquitto.conf"
    conf.write_text(
        f"user root\nallow_anonymous true\n"
        f"set_tcp_nodelay {('true', 'false')[server.index % 2]}\n"
        f"listener 1883\nlistener 8883\n"
        f"certfile {tls}/s{server.index}.pem\nkeyfile {tls}/s{server.index}.key\n"
    )
    testbed.start(server, ["mosquitto", "-c", str(conf)], log=work / "log.txt")


def payload(rng: random.Random) -> str:
    """Return a measurement as devices write it."""
    fields = [
        f'"{rng.choice(WORDS)}":{rng.uniform(-40, 120):.{rng.randint(0, 3)}f}'
        for _ in range(rng.choice((1, 1, 2, 4, 9, 20)))
    ]
    return fields[0].split(":")[1] if len(fields) == 1 else "{" + ",".join(fields) + "}"


def act(context: ActContext) -> list[Run]:
    """Return the process of a device that sends once, sends a while, or listens."""
    rng = context.rng
    secure = rng.random() < TLS_SHARE
    common = [
        "-h",
        context.name,
        "-q",
        str(rng.choice((0, 0, 1, 1, 2))),
        "-V",
        rng.choice(("mqttv311", "mqttv311", "mqttv5")),
        "-k",
        str(rng.choice((5, 60))),
    ]
    if rng.random() < 0.6:
        common += ["-i", f"{rng.choice(WORDS)}-{rng.randint(0, 10 ** rng.randint(1, 9))}"]
    if rng.random() < 0.4:
        common += ["-u", rng.choice(WORDS), "-P", "".join(rng.choices(WORDS, k=rng.randint(1, 6)))]
    if rng.random() < 0.2:
        common += ["--will-topic", f"gone/{rng.choice(WORDS)}", "--will-payload", payload(rng)]
    common += ["-p", "8883", "--cafile", str(context.ca)] if secure else ["-p", "1883"]
    topic = "/".join(rng.choices(WORDS, k=rng.randint(1, 5)))
    kind = rng.random()
    if kind < 0.4:
        return [
            Run(
                argv=["mosquitto_pub", *common, "-t", topic, "-m", payload(rng)],
                after_s=number * rng.uniform(0.3, 1.0),
            )
            for number in range(rng.randint(1, 3))
        ]
    if kind < 0.6:
        return [
            Run(
                argv=[
                    "mosquitto_pub",
                    *common,
                    "-t",
                    topic,
                    "-m",
                    payload(rng),
                    "--repeat",
                    str(rng.randint(3, 15)),
                    "--repeat-delay",
                    str(round(rng.uniform(0.1, 0.8), 2)),
                ]
            )
        ]
    if kind < 0.8:
        return [
            Run(
                argv=[
                    "mosquitto_sub",
                    *common,
                    "-t",
                    rng.choice(("#", topic, "+/+")),
                    "-W",
                    str(rng.randint(2, 9)),
                ]
            )
        ]
    return [
        Run(
            argv=python(
                "mqtt_device.py",
                context.name,
                context.ca if secure else "-",
                rng.random(),
                rng.randint(1, 3),
            )
        )
    ]
