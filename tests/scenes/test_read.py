"""SCENE.toml: what it may say, and what is said of what it may not."""

import pytest

from netdiff_ray.errors import ConfigError
from netdiff_ray.scenes.read import read_scene
from netdiff_ray.scenes.scene import Incident, Scene, Site

WHOLE = """
seed = 7
start = 2026-03-02T08:00:00Z
minutes = 60
labels = { web = 3, dns = 1.5 }
daily = [1, 1, 1, 1, 1, 1, 1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2, 1, 1, 1, 1, 1, 1]
servers = ["198.18.0.0/15"]

[[sites]]
name = "office"
hosts = 200
nets = ["10.1.0.0/24"]
resolvers = 2

[[incidents]]
name = "scan"
label = "nmap"
begin_minute = 20
minutes = 5
flows_per_second = 2.5
targets = 100
"""


def test_a_scene_is_read():
    scene = read_scene(WHOLE.encode(), "a.toml")
    assert scene.labels == (("dns", 1.5), ("web", 3.0))
    assert scene.start_ns == 1_772_438_400_000_000_000
    assert scene.sites == (Site(name="office", hosts=200, nets=("10.1.0.0/24",), resolvers=2),)
    assert scene.incidents == (
        Incident(
            name="scan", label="nmap", begin_minute=20.0, minutes=5.0, flows_per_second=2.5,
            targets=100,
        ),
    )  # fmt: skip
    assert (scene.seed, scene.ip_version, scene.num_hosts) == (7, 4, 200)
    assert read_scene(b"", "empty.toml") == Scene()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 7", "sed = 7", "a scene has no key 'sed'; it has seed, start, minutes"),
        ("hosts = 200", "", r"\[\[sites\]\] lacks the key 'hosts'; it needs name, hosts"),
        ("hosts = 200", "hosts = 2.5", "hosts is 2.5; it must be a whole number"),
        ("hosts = 200", "hosts = 252", "room for 254 IPv4 addresses in 10.1.0.0/24, and needs 255"),
        ("web = 3", "web = -3", "labels.web is -3.0; it must be a weight above 0"),
        ("web = 3", 'web = "3"', "labels is .* it must be a table of weights"),
        ("[1, 1, 1,", "[1, 1,", "daily is .* 24 rates"),
        ("[1, 1, 1,", "[1, 1, -1,", "daily is .* 24 rates, 0 or more"),
        ("minutes = 5", "minutes = 50", "lasts from minute 20 to 70; the scene ends at minute 60"),
        ("begin_minute = 20", "begin_minute = -2", "begin_minute is -2.0; it must be 0 or more"),
        ("= 2.5", "= -2.5", "flows_per_second is -2.5; it must be 0 or more"),
        ("targets = 100", "factor = 2", "either flows_per_second .* or factor"),
        ("targets = 100", "sources = 300", "has 300 sources; the scene has 200 hosts"),
        ("10.1.0.0/24", "198.19.0.0/16", "overlap: give each networks of its own"),
        ("10.1.0.0/24", "fd00::/64", "networks of the same IP versions"),
        ("10.1.0.0/24", "10.1.0.7/24", "address in 10.1.0.0/24: name the network"),
        ("[[sites]]", "[sites]", r"sites must be tables: begin each with \[\[sites\]\]"),
        ("2026-03-02T08:00:00Z", '"tomorrow"', "start is 'tomorrow'; it must be a time as in"),
        ("seed = 7", "seed 7", "is no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_key_and_what_would_be_right(old, new, words):
    assert WHOLE.count(old) == 1
    with pytest.raises(ConfigError, match=f"^a.toml:? .*{words}"):
        read_scene(WHOLE.replace(old, new).encode(), "a.toml")
