"""What labels lack, and datasets of real and drawn flows."""

import pandas as pd
import pytest
from packet_builders import pcap, tcp4, udp4
from storage.dataset_builders import CONFIG, NAMES, made_shard

import netdiff_ray as nd
from netdiff_ray.augmentation.parts import PartSources, PartTask
from netdiff_ray.augmentation.shortfall import shortfall
from netdiff_ray.cli import parsed
from netdiff_ray.encoding.collection import Capture
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name
from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.storage.manifest import ENCODED_DATASET, PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

SETTINGS = EncodeSettings(layout="stateful", height=16, idle_timeout_s=60.0)
COUNTS = {"web": 40, "dns": 7, "scan": 2, "exfil": 1}


def test_labels_are_filled_up_to_the_most_frequent_one():
    found = shortfall(COUNTS)
    assert found.goal == 40
    assert found.lacking == {"dns": 33, "scan": 38}
    assert found.too_few == {"exfil": 1}
    (line,) = found.words()
    assert line.startswith("label 'exfil' has 1 flow, too few for statistics")


def test_labels_are_filled_up_to_a_number():
    assert shortfall(COUNTS, 10).lacking == {"dns": 3, "scan": 8}
    assert shortfall(COUNTS, 50, ("web", "scan")).lacking == {"web": 10, "scan": 48}
    assert not shortfall(COUNTS, 50, ("web",)).too_few


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((COUNTS, None, ("wbe",)), "no label 'wbe'; it has dns, exfil, scan, web"),
        ((COUNTS, 40, ("web",)), "nothing to draw: no label has fewer than 40 flows"),
        ((COUNTS, None, ("exfil",)), "nothing to draw: label 'exfil' has 1 flow"),
        (({"a": 3, "b": 3},), "nothing to draw: no label has fewer than 3 flows"),
    ],
)
def test_what_cannot_be_filled_up_is_said(arguments, words):
    with pytest.raises(ConfigError, match=words):
        shortfall(*arguments)


def test_its_jobs_are_those_of_the_verbs():
    config = parsed(["augment", "enc", "s3://b/out?region=x", "--to-balance", "--heldout", "held"])
    drawing = config.generate({"dns": 33, "scan": 38}, "nano")
    assert config.train().source == config.evaluate().train == "enc"
    assert config.train().target == drawing.adapter == "s3://b/out/adapter?region=x"
    assert (drawing.flows, drawing.weights()) == (71, {"dns": 33.0, "scan": 38.0})
    assert drawing.draw.steps == 4
    given = parsed(["augment", "enc", "out", "--flows", "50", "--adapter", "mine"])
    assert given.generate({"dns": 3}, "/some/sd3").adapter == "mine"
    assert given.generate({"dns": 3}, "/some/sd3").draw.steps == 28
    assert given.evaluate() is None


@pytest.mark.parametrize("how", [{}, {"to_balance": True, "flows": 3}])
def test_a_goal_is_asked_for(how):
    with pytest.raises(ConfigError, match="choose how many flows a label is to have"):
        nd.AugmentConfig(source="a", target="b", **how)


@pytest.fixture
def sources(tmp_path):
    """Return the sources of parts: a real dataset of a part, and a drawn one of two shards."""
    captures = tmp_path / "captures"
    captures.mkdir()
    packets = [tcp4(2), tcp4(0x10), *[udp4(sport=9)] * 20]
    (captures / "a.pcap").write_bytes(pcap([(k, 0, p) for k, p in enumerate(packets)]))
    real, drawn = open_store(tmp_path / "real"), open_store(tmp_path / "drawn")
    size = (captures / "a.pcap").stat().st_size
    capture = Capture(name="a.pcap", label="dns", num_bytes=size, mtime_ns=0)
    encode_part(open_store(captures), [capture], real, 0, SETTINGS, {"job": "encode"})
    commit(real, ENCODED_DATASET, {"job": "encode"}, [encoded_part_name(0)])
    for number in range(2):
        write_shard(drawn, made_shard(tmp_path, number), CONFIG)
    commit(drawn, PCAP_DATASET, CONFIG, NAMES)
    return PartSources(
        real=real, drawn=drawn, target=open_store(tmp_path / "augmented"), height=16,
        layout=layout_named("stateful"), identity={"job": "augment"},
    )  # fmt: skip


def written(sources):
    """Return the augmented dataset, opened."""
    names = [(encoded_part_name(0), False), *((name, True) for name in NAMES)]
    for number, (name, synthetic) in enumerate(names):
        sources.write(PartTask(number=number, name=name, synthetic=synthetic))
    parts = [encoded_part_name(number) for number in range(3)]
    commit(sources.target, ENCODED_DATASET, sources.identity, parts)
    return nd.load(sources.target.root)


def test_real_and_drawn_windows_are_one_dataset_and_told_apart(sources, tmp_path):
    dataset = written(sources)
    real, drawn = nd.load(tmp_path / "real"), nd.load(tmp_path / "drawn", height=16)
    assert len(dataset) == len(real) + len(drawn)
    assert dataset.synthetic.tolist() == [False] * len(real) + [True] * len(drawn)
    assert not real.synthetic.any()
    assert drawn.synthetic.all()
    assert dataset.labels.tolist() == [*real.labels, *drawn.labels]
    expected = [n.tolist() for n in (*real.nprints, *drawn.nprints)]
    assert [n.tolist() for n in dataset.nprints] == expected
    counts = dataset.manifest["counts"]["labels"]
    assert {label: (of["flows"], of["synthetic"]) for label, of in counts.items()} == {
        "dns": (2, 0), "web": (6, 6),
    }  # fmt: skip


def test_the_labels_file_has_a_line_a_flow_and_pandas_passes_over_it(sources, tmp_path):
    dataset = written(sources)
    folder = tmp_path / "augmented"
    frame = pd.read_parquet(folder)
    assert frame["synthetic"].tolist() == dataset.synthetic.tolist()
    text = {"flow_id": str, "start": str}
    files = [pd.read_csv(p, dtype=text) for p in sorted((folder / "_labels").iterdir())]
    labels = pd.concat(files).set_index("flow_id")
    assert set(labels.index) == set(dataset.flow_ids)
    assert labels.index.is_unique
    of_windows = labels.loc[frame["flow_id"]]
    assert (of_windows["synthetic"].astype(bool).to_numpy() == frame["synthetic"].to_numpy()).all()
    assert (of_windows["label"].to_numpy() == frame["label"].to_numpy()).all()
    assert set(dataset.manifest["files"]) >= {f"_labels/part-{k:05d}.csv" for k in range(3)}
