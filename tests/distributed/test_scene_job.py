"""A scene on Ray: from SCENE.toml to captures in time order, the same bytes after a break."""

import csv
import json

import pytest
from fs_helpers import content_of
from tiny_models import LABELS

import netdiff_ray as nd
from netdiff_ray.cli import main
from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.errors import ConfigError

pytestmark = pytest.mark.usefixtures("local_ray")

SCENE = """
seed = 4
minutes = 4
sessions_per_hour = 10

[[sites]]
name = "lab"
hosts = 5
nets = ["10.9.0.0/28", "fd00:9::/64"]

[[incidents]]
name = "burst"
label = "LABEL"
begin_minute = 1
minutes = 0.5
flows_per_second = 0.2
"""
OPTIONS = ("--steps", 2, "--batch-size", 4, "--flows-per-shard", 8, "--shard-seconds", 120,
           "--max-quarantined-share", 1)  # fmt: skip


def run(*arguments):
    return main(["scene", *map(str, arguments)])


def test_a_scene_is_made_and_made_again_after_a_break(adapter_directory, tmp_path, capsys):
    file, out = tmp_path / "scene.toml", tmp_path / "out"
    file.write_text(SCENE.replace("LABEL", LABELS[0]))
    assert run(file, out, "--adapter", adapter_directory, "--denoisers", 1, 1, *OPTIONS) == 0
    assert "flows, " in capsys.readouterr().out
    whole = content_of(out)
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert {row["incident"] for row in rows} == {"", "burst"}
    assert {row["host"].partition("-")[0] for row in rows} == {"lab"}
    assert main(["verify", str(out / "flows")]) == 0
    scene = json.loads((out / "scene.json").read_text())
    assert set(scene["files"]) == {
        "capture-00000.pcap", "capture-00001.pcap", "labels.csv", "hosts.csv", "incidents.csv",
    }  # fmt: skip
    for name in ("capture-00001.pcap", "flows/manifest.json", "flows/flows/part-00001.parquet"):
        (out / name).unlink()
    (out / "scene.json").write_text(json.dumps({**scene, "complete": False}))
    config = nd.SceneConfig(
        paths=(file, out), adapter=adapter_directory, denoisers=(1, 1), flows_per_shard=8,
        shard_seconds=120.0, draw=DrawSettings(steps=2, batch_size=4),
    )  # fmt: skip
    result = nd.scene(config)
    assert content_of(out) == whole
    assert result.written.num_flows == len(rows)
    with pytest.raises(ConfigError, match=r"labels.*nowhere|nowhere.*labels|does not know"):
        nd.scene(_other(config, file, "labels = { nowhere = 1 }\nminutes = 4"))
    with pytest.raises(ConfigError, match="holds"):
        nd.scene(_other(config, file, "minutes = 5"))
    assert content_of(out) == whole


def _other(config, file, text):
    """Write another scene to the file; return the configuration."""
    file.write_text(SCENE.replace("LABEL", LABELS[0]).replace("minutes = 4", text))
    return config


def test_what_is_said_twice_is_refused(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("seed = 4")
    with pytest.raises(ConfigError, match=r"hosts is said by .*s.toml"):
        nd.SceneConfig(paths=(str(file), "out"), adapter="a", hosts=3)
    with pytest.raises(ConfigError, match="one or two paths"):
        nd.SceneConfig(paths=(), adapter="a")
    with pytest.raises(ConfigError, match=r"seed is 4 in .* and 5 beside it"):
        nd.scene(nd.SceneConfig(paths=(str(file), "out"), adapter="a", draw=DrawSettings(seed=5)))
    with pytest.raises(ConfigError, match=r"cannot read none.toml: No such file"):
        nd.scene(nd.SceneConfig(paths=("none.toml", "out"), adapter="a"))
