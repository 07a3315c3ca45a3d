"""Draw what rare labels of an encoded dataset lack, and write it beside the real flows."""

from collections.abc import Callable
from dataclasses import dataclass

from netdiff_ray.augmentation.parts import PartSources, PartTask
from netdiff_ray.augmentation.shortfall import Shortfall, shortfall
from netdiff_ray.config import AugmentConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.datasets.parts import read_encoded_part
from netdiff_ray.diffusion.adapter import METADATA_FILE, parse_metadata
from netdiff_ray.distributed.cluster import one_ray
from netdiff_ray.distributed.parts import write_parts
from netdiff_ray.encoding.encode import encoded_part_name
from netdiff_ray.encoding.windows import layout_of_table
from netdiff_ray.errors import ConfigError
from netdiff_ray.evaluate.report import Report
from netdiff_ray.pipeline import PipelineJobs
from netdiff_ray.storage.inputs import input_digest, parts_to_write
from netdiff_ray.storage.manifest import ENCODED_DATASET, Dataset, commit, open_dataset
from netdiff_ray.storage.store import open_store, public_uri

Progress = Callable[[int, int], None]
"""Called with parts of the augmented dataset that are written, and parts in all."""


@dataclass(frozen=True, kw_only=True)
class AugmentResult:
    """What an augmentation has made."""

    shortfall: Shortfall
    """What each label lacked."""
    generated: Dataset
    """The drawn flows, a pcap dataset."""
    augmented: Dataset
    """Real and drawn windows, an encoded dataset with the column `synthetic`."""
    adapter: dict | None = None
    """The content of the adapter.json of the adapter that was trained; None if one was given."""
    report: Report | None = None
    """None without held-out flows."""


def augment(
    config: AugmentConfig,
    progress: Progress = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
    jobs: PipelineJobs | None = None,
) -> AugmentResult:
    """Draw what labels of an encoded dataset lack, and write real and drawn flows together.

    What an earlier run has finished is not made again. All jobs use the same Ray.

    Args:
        config: of the jobs.
        progress: see Progress.
        note: called with what is said of labels, a line each, before anything is made.
        jobs: what to call to train, to draw and to evaluate; the jobs themselves unless given.

    Raises:
        ConfigError: no such label, or there is nothing to draw.
        NetdiffError: a job cannot be carried out.
    """
    jobs = jobs or PipelineJobs()
    real = open_dataset(open_store(config.source), ENCODED_DATASET)
    if real.manifest["config"]["job"] == "augment":
        raise ConfigError(f"{real.store.uri} holds drawn flows; name the dataset of real ones")
    counts = {label: of["flows"] for label, of in real.manifest["counts"]["labels"].items()}
    lacking = shortfall(counts, config.flows, config.labels)
    for line in lacking.words():
        note(line)
    drawn = ", ".join(f"{label} {count:,}" for label, count in lacking.lacking.items())
    note(f"to {lacking.goal:,} flows a label, these are drawn: {drawn}")
    with one_ray():
        adapter = jobs.train(config.train()) if config.adapter is None else None
        base = adapter["base"] if adapter else _base_of(config.adapter)
        generated = jobs.generate(config.generate(lacking.lacking, base))
        augmented = _write(config, real, generated, progress)
        evaluation = config.evaluate()
        report = jobs.evaluate(evaluation) if evaluation is not None else None
    return AugmentResult(
        shortfall=lacking, adapter=adapter, generated=generated, augmented=augmented, report=report
    )


def _base_of(adapter: str) -> str:
    """Return the base that an adapter was trained on."""
    store = open_store(adapter)
    return parse_metadata(store.get(METADATA_FILE), store.uri).base


def _write(config: AugmentConfig, real: Dataset, generated: Dataset, progress: Progress) -> Dataset:
    """Write what is missing of OUT/augmented, and commit it."""
    target = open_store(config.folder("augmented"))
    sources = [(name, False, real) for name in real.part_names]
    sources += [(name, True, generated) for name in generated.part_names]
    tasks = [
        PartTask(number=number, name=name, synthetic=synthetic)
        for number, (name, synthetic, _) in enumerate(sources)
    ]
    inputs = {
        encoded_part_name(number): input_digest(name, dataset.files[name]["sha256"])
        for number, (name, _, dataset) in enumerate(sources)
    }
    copied = {name: real.manifest["config"][name] for name in ("layout", "height")}
    identity = {**run_identity("augment", config), **copied}
    missing = [tasks[number] for number in parts_to_write(target, identity, inputs)]
    parts = PartSources(
        real=real.store, drawn=generated.store, target=target, identity=identity,
        layout=layout_of_table(read_encoded_part(real.part_names[0], store=real.store).schema),
        height=copied["height"],
    )  # fmt: skip
    done = len(tasks) - len(missing)
    progress(done, len(tasks))
    for _ in write_parts(missing, parts.write, config.address):
        done += 1
        progress(done, len(tasks))
    captures = real.manifest["collection"]["captures"] + len(generated.part_names)
    collection = {"source": public_uri(config.source), "captures": captures}
    return commit(target, ENCODED_DATASET, identity, list(inputs), {"collection": collection})
