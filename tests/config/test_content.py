"""Every field of a job's configuration decides the files that the job makes, or is declared not
to."""

import dataclasses
from pathlib import Path

import pytest

from netdiff_ray.config import (
    EncodeConfig,
    EvaluateConfig,
    GenerateConfig,
    PipelineConfig,
    RepairConfig,
    TrainConfig,
)
from netdiff_ray.config.content import FieldKind, content_of, field_kinds, run_identity
from netdiff_ray.config.diffusion import Lora

CONFIGS = {
    "encode": EncodeConfig(source="a", target="b"),
    "train": TrainConfig(source="a", target="b"),
    "generate": GenerateConfig(adapter="a", target="b", flows=3),
    "evaluate": EvaluateConfig(real="a", synthetic="b", out="c"),
    "repair": RepairConfig(source=Path("a"), target=Path("b")),
    "pipeline": PipelineConfig(captures="a", target="b", flows=3, draw_steps=2),
}

EXECUTION = {
    "encode": {"target", "max_quarantined_share", "address", "json"},
    "train": {
        "target", "workers", "gpus_per_worker", "cpus_per_worker", "max_failures", "address",
        "json", "base.device", "base.attention", "base.compile", "base.slice_vae",
        "settings.sample_grid_every", "settings.sample_grid_steps",
        "settings.optimization.report_every",
        "settings.optimization.checkpoint_every",
    },
    "generate": {
        "target", "compile", "slice_vae", "denoisers", "gpus_per_denoiser", "cpus_per_denoiser",
        "max_quarantined_share", "address", "json",
    },
    "evaluate": {"out", "address", "json"},
    "repair": {"target", "max_quarantined_share"},
    "pipeline": {
        "target", "workers", "gpus_per_worker", "max_quarantined_share", "address", "json",
    },
}  # fmt: skip

INPUT = {
    "encode": {"source", "labels", "labels_csv"},
    "train": {"source"},
    "generate": {"adapter", "base", "revision"},
    "evaluate": {
        "real",
        "synthetic",
        "train",
        "train_labels_csv",
        "drawn",
        "adapter",
        "against",
    },
    "repair": {"source"},
    "pipeline": {"captures", "heldout", "flow_labels", "labels_csv"},
}

OTHER = {
    "base.attention": "math", "base.dtype": "float32", "compile": True, "denoisers": (1, 2),
    "draw.loras": (Lora(source="few"),), "draw.guidance": 2.0, "dtype": "float32",
    "gpus_per_worker": 1, "height": 64, "layout": "nprint", "loras": ("few=0.5",),
    "label_settings.label_columns": ("src=a",),
    "mix": ("web=2",), "order": "interleaved", "payload": "zeros", "server_ports": (53,),
    "settings.balance": 0.25, "settings.optimization.ema_decay": 0.5,
    "settings.optimization.optimiser": "muon",
    "settings.max_height": 64, "settings.objective.schedule_share": 0.5,
    "settings.objective.schedule_steps": 4, "settings.objective.prompt_dropout": 0.5,
    "pins.client_net": ("192.0.2.0/24",), "pins.server_net": ("192.0.2.0/24",),
    "settings.prompt": "another {label} {service}", "workers": (2,), "train_minutes": 3.0,
    "pins.rtt_ms": "20:80", "pins.loss": "0.01:0.1", "pins.start": "2026-01-31T08:00:00Z",
    "learning_rate": 2e-3, "pins.min_packets": 3, "pins.max_packets": 9, "pins.ip_version": 6,
    "settings.optimization.minutes": 3.0, "settings.optimization.decay_share": 0.3,
    "settings.evidence.heldout_share": 0.3, "settings.evidence.min_gain": 0.3,
    "settings.target_modules": ("attn.to_q",), "max_quarantined_share": 0.5,
}  # fmt: skip
"""Values other than the default, of fields for which one more, or another text, is none."""


@pytest.mark.parametrize("job", ["encode", "train", "generate", "evaluate", "pipeline"])
def test_paths_may_be_path_objects(job):
    config = CONFIGS[job]
    given = {name for name, value in vars(config).items() if value in ("a", "b", "c")}
    assert len(given) >= 2
    paths = {name: Path(getattr(config, name)) for name in given}
    assert dataclasses.replace(config, **paths) == config


def leaves(config, prefix=""):
    """Yield (dotted name, kind) of each field that holds a value, of nested records too."""
    for name, kind in field_kinds(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and kind is FieldKind.CONTENT:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def other_value(name, value):
    """Return a valid value of a field that is not this one."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, "another")
    return "another" if value is None or isinstance(value, str) else type(value)("another")


def changed(config, name):
    """Return the configuration with another value of a field, given by its dotted name."""

    def within(record, path, value):
        head, *rest = path
        inner = within(getattr(record, head), rest, value) if rest else value
        return dataclasses.replace(record, **{head: inner})

    value = config
    for part in name.split("."):
        value = getattr(value, part)
    other = {"cpus_per_worker": 2, "gpus_per_denoiser": 1.0, "draw.shift": 2.0,
             "settings.objective.shift": 2.0}.get(name) or other_value(name, value)  # fmt: skip
    assert other != value
    return within(config, name.split("."), other)


@pytest.mark.parametrize("job", CONFIGS)
def test_every_field_is_content_or_declared_otherwise(job):
    kinds = dict(leaves(CONFIGS[job]))
    assert {name for name, kind in kinds.items() if kind is FieldKind.EXECUTION} == EXECUTION[job]
    assert {name for name, kind in kinds.items() if kind is FieldKind.INPUT} == INPUT[job]


@pytest.mark.parametrize(
    ("job", "name", "kind"),
    [(job, *leaf) for job, config in CONFIGS.items() for leaf in leaves(config)],
)
def test_content_fields_alone_change_what_a_run_is(job, name, kind):
    before = run_identity(job, CONFIGS[job])
    after = run_identity(job, changed(CONFIGS[job], name))
    assert (before != after) == (kind is FieldKind.CONTENT)


def jobs_of(config):
    """Return the content of the jobs of a pipeline."""
    return [
        content_of(job) for job in (config.encode(), config.train(), config.generate({"dns": 3}))
    ]


@pytest.mark.parametrize(("name", "kind"), list(leaves(CONFIGS["pipeline"])))
def test_a_pipeline_hands_its_content_to_its_jobs(name, kind):
    config = CONFIGS["pipeline"]
    assert (jobs_of(config) != jobs_of(changed(config, name))) == (kind is FieldKind.CONTENT)


def test_the_identity_of_a_job_has_its_nested_settings_and_its_input():
    identity = run_identity("generate", CONFIGS["generate"], {"adapter": "1f"})
    assert identity["job"] == "generate"
    assert identity["flows"] == 3
    assert identity["draw"]["steps"] == 28
    assert identity["inputs"] == {"adapter": "1f"}
    assert "adapter" not in identity
