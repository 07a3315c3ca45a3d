"""The whole evaluation: sides read from disk, the JSON, the page, what cannot be computed."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from importlib import resources

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from flow_builders import LABELS, chosen_flows, made_blocks, made_capture, made_table, renamed
from storage.dataset_builders import CONFIG, NAMES, made_shard

from netdiff_ray.errors import DataError, DatasetError
from netdiff_ray.evaluate import evaluate, open_source, source_blocks, summarise
from netdiff_ray.evaluate.comparison import compare, read_other
from netdiff_ray.evaluate.fidelity import fidelity
from netdiff_ray.evaluate.flow_blocks import joined_blocks
from netdiff_ray.evaluate.summary import mixed
from netdiff_ray.evaluate.utility import run_tasks
from netdiff_ray.evaluate.verdict import GRADES, grade
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

MANY = ("dns", "iot")
"""Labels of the corpus that have most flows."""
SCHEMA = "report.schema.json"
HEADLINES = {
    "fidelity": {"jsd", "jsd_floor", "tvd", "hellinger", "repair_distance"},
    "utility": {"tstr", "trtr", "ratio", "ratio_error", "gain_10", "gain_10_error"},
    "discrimination": {"accuracy", "accuracy_floor", "beyond_floor"},
    "coverage": {"precision", "recall", "density", "coverage", "duplicates"},
    "privacy": {
        "closer_to_train",
        "closer_to_train_floor",
        "mia_auc",
        "mia_auc_floor",
        "copies",
        "sequences",
        "sequences_floor",
        "attribute_gain",
        "addresses",
    },
    "compliance": {"valid_packets", "valid_flows", "tshark_errors"},
}
COMPLIANCE = {
    "available": True, "reason": None, "notes": [],
    "headline": {"valid_packets": 1.0, "valid_flows": 1.0, "tshark_errors": 0},
    "tables": [{"title": "By rule", "columns": ["rule", "passed"],
                "rows": [["ipv4 <length>", 1.0]], "note": ""}],
}  # fmt: skip


class Page(HTMLParser):
    """Elements of a page, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.loads, self.without_alt, self.open = Counter(), [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements[tag] += 1
        self.without_alt += tag == "img" and not attrs.get("alt")
        self.loads += [attrs[k] for k in ("src", "href") if k in attrs]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    for label in LABELS:
        (folder / "real" / label).mkdir(parents=True)
        (folder / "real" / label / "a.pcap").write_bytes(made_capture(label, 40, 1))
    pq.write_table(made_table(folder, 40, 2), folder / "synthetic.parquet")
    real, synthetic = open_source(folder / "real"), open_source(folder / "synthetic.parquet")
    assert (real.kind, synthetic.kind) == ("captures", "encoded dataset")
    train = made_blocks(folder, 40, 3)
    return evaluate(real, synthetic, train, compliance=COMPLIANCE, seeds=1)


def test_every_headline_is_there(report, tmp_path):
    report.write(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name: set(found[name]["headline"]) for name in HEADLINES} == HEADLINES
    for name in HEADLINES:
        assert found[name]["available"], found[name]["reason"]
        for key, value in found[name]["headline"].items():
            if key not in ("repair_distance", "addresses", "sequences_floor"):
                assert isinstance(value, int | float), key
    assert "baseline" not in found, "nothing here drew the flows"
    assert found["sides"]["real"]["labels"] == dict.fromkeys(LABELS, 40)
    assert found["sides"]["real"]["source"].endswith("real")


def test_the_page_needs_nothing_else(report):
    text = report.as_html()
    page = Page(text)
    assert not page.open
    assert page.without_alt == 0
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not re.search(r"<script|@import|url\(", text)
    assert page.elements["img"] >= 6 + 1 + 2 + 1 + 2 * len(LABELS)
    assert "ipv4 &lt;length&gt;" in text
    assert 'name="viewport"' in text


def test_the_json_is_what_its_schema_says(report, tmp_path):
    schema = json.loads(resources.files("netdiff_ray.evaluate").joinpath(SCHEMA).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    rows = compare(report.sections, report.as_dict(), "other")
    for found in (report, replace(report, against=rows), evaluate(made_blocks(tmp_path, 3, 1), [])):
        content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        jsonschema.validate(content, schema, jsonschema.Draft202012Validator)
        wrong = content | {"fidelity": content["fidelity"] | {"headline": {"jsd": "far"}}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema, jsonschema.Draft202012Validator)


def test_features_by_label_beside_their_floors(report, tmp_path):
    found = report.sections["fidelity"]["feature_distances"]
    assert set(found) == set(LABELS)
    for of_label in found.values():
        assert (of_label["real_flows"], of_label["synthetic_flows"]) == (40, 40)
        packets = of_label["features"]["packets"]
        assert 0 < packets["ks_floor"] < 0.5
        assert packets["ks"] < packets["ks_floor"] + 0.3
        assert packets["emd"] < 3
    page = Page(report.as_html())
    assert page.elements["details"] >= 1
    titles = [p.title for p in report.pictures if p.folded]
    assert [title.partition(":")[0] for title in titles] == list(LABELS)

    far = [replace(b, statistics=b.statistics * 100) for b in made_blocks(tmp_path, 40, 2)]
    sections = evaluate(made_blocks(tmp_path, 40, 1), far, seeds=1).sections
    for of_label in sections["fidelity"]["feature_distances"].values():
        assert of_label["features"]["packets"]["ks"] == 1


def test_the_floor_of_a_label_is_that_of_as_many_flows(tmp_path):
    real = made_blocks(tmp_path, 120, 1)
    floors = []
    for num_flows in (120, 12):
        found = fidelity(summarise(real), summarise(made_blocks(tmp_path, num_flows, 2)))
        of_labels = found["feature_distances"].values()
        floors.append(np.mean([of["features"]["bytes"]["ks_floor"] for of in of_labels]))
    assert floors[1] / floors[0] == pytest.approx(np.sqrt((1 / 120 + 1 / 12) / (2 / 120)), rel=1e-3)


def test_the_verdict_names_its_reasons(report):
    found = report.verdict
    assert found["grade"] in GRADES
    grades = [GRADES.index(reason["grade"]) for reason in found["reasons"]]
    assert grades == sorted(grades, reverse=True)
    assert found["grade"] == found["reasons"][0]["grade"]
    words = " ".join(reason["words"] for reason in found["reasons"])
    worst = report.sections["utility"]["worst"]
    ratio = report.sections["utility"]["headline"]["ratio"]
    assert (
        f"a classifier ({worst['model']}) trained on it reaches {ratio:.2f} of one trained on real"
        in words
    )
    text = report.as_html()
    assert found["words"] in text
    assert all(f'href="#{name}"' in text for name in report.sections)
    assert report.made["date"] in text
    assert f"numpy {np.__version__}" in text


@pytest.mark.parametrize(
    ("section", "key", "headline", "wanted"),
    [
        ("utility", "ratio", {"ratio": 0.97}, "good"),
        ("utility", "ratio", {"ratio": 0.78}, "poor"),
        ("utility", "ratio", {"ratio": 0.78, "ratio_error": 0.03}, "poor"),
        ("utility", "ratio", {"ratio": 0.82, "ratio_error": 0.15}, "good"),
        ("utility", "gain_10", {"gain_10": 0.01}, "good"),
        ("utility", "gain_10", {"gain_10": -0.01}, "fair"),
        ("utility", "gain_10", {"gain_10": -0.05, "gain_10_error": 0.06}, "good"),
        ("utility", "gain_10", {"gain_10": -0.05, "gain_10_error": 0.01}, "poor"),
        ("baseline", "gap_closed", {"gap_closed": 0.6}, "good"),
        ("baseline", "gap_closed", {"gap_closed": 0.0}, "poor"),
        ("discrimination", "beyond_floor", {"beyond_floor": 0.1}, "fair"),
        ("privacy", "mia_auc", {"mia_auc": 0.7, "mia_auc_floor": 0.69}, "good"),
        ("privacy", "mia_auc", {"mia_auc": 0.7, "mia_auc_floor": 0.3}, "poor"),
        ("privacy", "addresses", {"addresses": 1}, "poor"),
        ("privacy", "addresses", {"addresses": None}, None),
        ("privacy", "mia_auc", {"mia_auc": 0.7, "mia_auc_floor": None}, None),
        ("coverage", "density", {"density": 1.0}, None),
    ],
)
def test_figures_are_graded_by_their_distance_from_the_floor(section, key, headline, wanted):
    assert grade(section, key, headline) == wanted


def test_two_reports_side_by_side(report, tmp_path):
    report.write(tmp_path / "before")
    other = json.loads(read_other(tmp_path / "before"))
    assert read_other(tmp_path / "before" / "report.json") == read_other(tmp_path / "before")
    other["utility"]["headline"]["ratio"] = 0.1
    rows = {(s, k): v for s, k, *v in compare(report.sections, other, "before")["rows"]}
    ratio = report.sections["utility"]["headline"]["ratio"]
    assert rows["utility", "ratio"] == [ratio, 0.1, pytest.approx(ratio - 0.1), "better"]
    assert rows["fidelity", "jsd"][2:] == [0, ""]
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"none\.json: not a report"):
        read_other(tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"no report\.json"):
        read_other(tmp_path)


def test_the_same_flows_give_the_same_report(report, tmp_path):
    again = [made_blocks(tmp_path, 40, seed) for seed in (1, 2, 3)]
    parts = evaluate(*again, seeds=1).sections
    for name in ("fidelity", "utility", "discrimination", "coverage"):
        assert parts[name] == report.sections[name], name


def test_pcap_dataset_with_its_repair(tmp_path):
    place = open_store(tmp_path / "dataset")
    for number, label in enumerate(("web", "chat")):
        write_shard(place, made_shard(tmp_path, number, label=label), CONFIG)
    commit(place, PCAP_DATASET, CONFIG, NAMES)
    side = open_source(tmp_path / "dataset")
    assert side.kind == "pcap dataset"
    summary = summarise(source_blocks(side))
    assert summary.num_flows == {"web": 3, "chat": 3}
    assert summary.num_repaired == 6
    assert summary.corrected == {"tcp_doff": 6}
    assert summary.answerable == 600
    spoken = {(label, "tls", k): 1 + k for label in ("web", "chat") for k in (False, True)}
    assert summary.dialogues == spoken
    assert bytes([10, 0, 1, 1]) in summary.addresses


def test_what_is_no_side(tmp_path):
    with pytest.raises(DataError, match=r"no manifest, no Parquet file and no capture"):
        open_source(tmp_path)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "bad.pcap").write_bytes(b"no capture at all")
    summary = summarise(source_blocks(open_source(tmp_path)))
    assert summary.total_flows == 0
    assert "left out" in next(iter(summary.notes))
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(DatasetError, match="not a readable Parquet file"):
        list(source_blocks(open_source(tmp_path / "bad.parquet")))


def test_an_empty_side(tmp_path):
    found = evaluate(made_blocks(tmp_path, 3, 1), [], seeds=1)
    for name, keys in HEADLINES.items():
        assert not found.sections[name]["available"]
        assert set(found.sections[name]["headline"]) == keys
    assert found.sections["utility"]["reason"] == "the synthetic source has no flows"
    assert "Not available: the synthetic source has no flows." in found.as_html()


def test_labels_that_differ_and_a_single_flow(tmp_path):
    real = made_blocks(tmp_path, 12, 1)
    (other,) = joined_blocks(made_blocks(tmp_path, 12, 2))
    label = np.where(other.label == "web", "mail", other.label)
    found = evaluate(real, [replace(other, label=label)], seeds=1)
    assert found.notes == [
        "labels of the real flows only, not compared: web",
        "labels of the synthetic flows only, not compared: mail",
    ]
    assert found.sections["fidelity"]["available"]
    assert found.sections["utility"]["notes"] == ["labels left out for want of flows: mail, web"]
    lone = evaluate(real, [chosen_flows(other, [0])], real, seeds=1)
    json.dumps(lone.as_dict(), allow_nan=False)
    assert lone.sections["fidelity"]["headline"]["jsd"] > 0
    assert not lone.sections["utility"]["available"]
    assert "Not available" in lone.as_html()


def test_importing_loads_nothing_heavy():
    heavy = ("sklearn", "matplotlib", "scipy.sparse", "ray", "torch")
    code = f"import sys, netdiff_ray.evaluate; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_real_flows_against_held_out_ones(corpus):
    """Halves of the real captures: near the floor in every part."""
    blocks = [
        # A tenth of them: models of all of their flows take minutes.
        chosen_flows(b, np.flatnonzero(~np.isin(b.label, MANY) | (mixed(b.key, 6) % 10 == 0)))
        for b in source_blocks(open_source(corpus / "labelled"))
    ]  # fmt: skip
    halves = [
        [chosen_flows(b, np.flatnonzero(mixed(b.key, 5) % np.uint64(2) == k)) for b in blocks]
        for k in (0, 1)
    ]
    found = evaluate(
        *halves, renamed(halves[1], 1), seeds=1, run_tasks=partial(run_tasks, jobs=2)
    ).sections
    assert found["fidelity"]["headline"]["jsd"] < found["fidelity"]["headline"]["jsd_floor"]
    assert found["utility"]["headline"]["ratio"] > 0.9
    assert found["utility"]["headline"]["gain_10"] > -0.03
    assert found["discrimination"]["headline"]["beyond_floor"] < 0.06
    assert found["coverage"]["headline"]["coverage"] > 0.9
    assert found["privacy"]["headline"]["copies"] == found["privacy"]["headline"]["sequences"] == 1
