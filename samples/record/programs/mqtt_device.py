"""A device with paho that both sends and listens: mqtt_device.py HOST CA SEED STAYS."""

import random
import sys
import time

import paho.mqtt.client as mqtt


def stay(host: str, ca: str, rng: random.Random) -> None:
    """Connect, listen to a topic, send a few measurements to it, leave."""
    device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    if ca != "-":
        device.tls_set(ca)
    device.connect(host, 1883 if ca == "-" else 8883, keepalive=10)
    device.loop_start()
    topic = f"plant/{rng.randint(1, 500)}/state"
    device.subscribe(topic, qos=rng.choice((0, 1)))
    for _ in range(rng.randint(1, 6)):
        time.sleep(rng.expovariate(2.0))
        device.publish(
            topic, rng.randbytes(rng.choice((4, 12, 40, 150))).hex(), qos=rng.choice((0, 1, 2))
        )
    time.sleep(rng.uniform(0.2, 1.0))
    device.disconnect()
    device.loop_stop()


def main() -> None:
    """Stay connected that many times."""
    host, ca, seed, stays = sys.argv[1:]
    rng = random.Random(seed)
    for _ in range(int(stays)):
        stay(host, ca, rng)


if __name__ == "__main__":
    main()
