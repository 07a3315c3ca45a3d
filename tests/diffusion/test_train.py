"""Training: exact resuming, refusals, and weights that diffusers loads."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import (
    LABELS,
    MANY_STEPS,
    made_windows,
    quiet,
    settings,
    with_control,
)  # fmt: skip

from netdiff_ray.config.diffusion import (
    BaseSettings,
    DrawSettings,
    EvidenceSettings,
    FlowMatchingSettings,
    OptimizationSettings,
    TrainSettings,
)
from netdiff_ray.diffusion import train as train_module
from netdiff_ray.diffusion.adapter import LORA_FILE, read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.denoise import draw, scheduler_for
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.objective import (
    TrainingBatch,
    cell_weights,
    flow_matching_loss,
    noise_levels,
)
from netdiff_ray.diffusion.optimization import checkpoints_in
from netdiff_ray.diffusion.token_pruning import columns_with_tokens
from netdiff_ray.diffusion.train import choose_batch, train
from netdiff_ray.diffusion.training_set import KindWindows, make_training_set
from netdiff_ray.errors import ConfigError, DatasetError, ModelError
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.statistics import services_of
from netdiff_ray.nprint.layouts import layout_named


class Stop(Exception):
    """Ends a training from its report."""


def weights(directory):
    return load_file(directory / LORA_FILE)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_resumed_training_ends_bit_equal_to_an_unbroken_one(base, windows, tmp_path):
    chosen = dataclasses.replace(
        settings(steps=MANY_STEPS, accumulate=2, report_every=1), autocast=True
    )
    whole = train(base, windows, tmp_path / "whole", chosen, quiet)

    def stop_after_five(report):
        if report["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        train(base, windows, tmp_path / "broken", chosen, stop_after_five)
    assert [p.name for p in checkpoints_in(tmp_path / "broken" / "checkpoints")] == [
        "step-00000002.pt", "step-00000004.pt",
    ]  # fmt: skip
    seen = []
    torch.manual_seed(99)  # whatever the process did before does not matter
    broken = train(base, windows, tmp_path / "broken", chosen, lambda f: seen.append(f["step"]))
    assert seen == [5, 6]
    assert same(weights(whole), weights(broken))
    assert any(np.abs(w).max() > 0 for k, w in weights(whole).items() if "lora_B" in k)


def test_a_finished_training_is_not_repeated(base, windows, adapter_directory, tmp_path):
    before = weights(adapter_directory)
    metadata = read_adapter(adapter_directory).metadata
    reports = []
    chosen = with_control(learning_rate=1e-2)
    train(base, windows, adapter_directory, chosen, reports.append)
    assert reports == []
    assert same(before, weights(adapter_directory))
    assert metadata == read_adapter(adapter_directory).metadata


def test_another_run_in_the_same_place_is_refused(base, windows, adapter_directory):
    with pytest.raises(ConfigError, match="another run"):
        train(base, windows, adapter_directory, with_control(learning_rate=2e-2), quiet)


def test_the_base_is_as_before_after_training_and_after_failing(base, windows, tmp_path):
    before = {k: v.clone() for k, v in base.transformer.state_dict().items()}
    train(base, windows, tmp_path / "a", settings(), quiet)
    with pytest.raises(ModelError):
        train(base, windows, tmp_path / "b", settings(learning_rate=1e30), quiet)
    after = base.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_diffusers_own_loader_takes_the_weights(toy_directory, adapter_directory):
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(toy_directory)
    plain = dict(pipeline.transformer.named_parameters())
    pipeline.load_lora_weights(adapter_directory)
    loaded = {
        name: parameter.detach().numpy()
        for name, parameter in pipeline.transformer.named_parameters()
        if "lora_" in name
    }
    assert pipeline.get_active_adapters()
    saved = weights(adapter_directory)
    assert len(loaded) == len(saved) > 0
    for name, value in loaded.items():
        short = "transformer." + name.replace(".default_0", "")
        assert np.array_equal(saved[short], value)
    assert pipeline.transformer.peft_config["default_0"].r == 2
    assert plain


def test_no_lora_outside_the_transformer(adapter_directory):
    assert all(name.startswith("transformer.") for name in weights(adapter_directory))


def test_an_overfitted_window_is_learnt(base, tmp_path):
    windows = made_windows(per_label=1, longest=16)
    reports = []
    chosen = TrainSettings(
        rank=8, max_height=32, target_modules=("attn.to_q", "ff.net.2", "proj_out"),
        optimization=OptimizationSettings(
            steps=60, batch_size=2, learning_rate=1e-2, report_every=10
        ),
    )  # fmt: skip
    train(base, windows, tmp_path, chosen, reports.append)
    assert reports[-1]["loss"] < 0.8 * reports[0]["loss"]


def test_a_sample_grid_and_its_bit_error(base, windows, tmp_path):
    reports = []
    chosen = dataclasses.replace(settings(steps=2), sample_grid_every=2, sample_grid_steps=2)
    train(base, windows, tmp_path, chosen, reports.append)
    assert 0 <= reports[-1]["bit_error"] <= 1
    assert (tmp_path / "sample_grids" / "step-00000002.png").is_file()


def test_gradient_checkpointing_changes_nothing_but_memory(base, windows, tmp_path):
    plain = settings(steps=2)
    train(base, windows, tmp_path / "a", plain, quiet)
    saving = dataclasses.replace(plain, gradient_checkpointing=True)
    train(base, windows, tmp_path / "b", saving, quiet)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(np.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_nan_loss_stops_and_keeps_the_last_checkpoint(base, windows, tmp_path, monkeypatch):
    real = train_module.window_loss

    def poisoned(base, training_set, settings, step, micro, process_group):
        loss, height = real(base, training_set, settings, step, micro, process_group)
        return (loss * float("nan") if step == 3 else loss), height

    monkeypatch.setattr(train_module, "window_loss", poisoned)
    with pytest.raises(ModelError, match=r"loss of step 3 is nan.*step-00000002\.pt"):
        train(base, windows, tmp_path, settings(), quiet)
    assert [p.name for p in checkpoints_in(tmp_path / "checkpoints")] == ["step-00000002.pt"]


def test_out_of_memory_says_what_to_lower(base, windows, tmp_path, monkeypatch):
    def hungry(*_arguments):
        torch.empty(1 << 60)

    monkeypatch.setattr(train_module, "window_loss", hungry)
    with pytest.raises(ModelError, match=r"out of memory.*2 windows.*lower batch_size"):
        train(base, windows, tmp_path, settings(), quiet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": ["", *["x"] * 4]}, "empty label"),
        ({"window": [0]}, "5 windows have 1 values of window"),
        ({"nprint": [np.zeros((3, 1088), np.int8)] * 5}, "layout stateful has 704"),
        ({"nprint": [np.zeros((33, 704), np.int8)] * 5}, "33 rows"),
        ({"nprint": [np.zeros((0, 704), np.int8)] * 5}, "0 rows"),
        ({n: [] for n in ("nprint", "label", "service", "flow", "window")}, "no windows"),
    ],
)
def test_windows_that_cannot_be_learnt_from(base, tmp_path, change, message):
    columns = {
        "nprint": [np.zeros((3, 704), np.int8)] * 5,
        "label": ["x"] * 5,
        "service": ["tcp-443"] * 5,
        "flow": ["f"] * 5,
        "window": [0] * 5,
        **change,
    }
    layout = made_windows(1).layout
    with pytest.raises(DatasetError, match=message):
        train(base, LabelledWindows(**columns, layout=layout), tmp_path / "a", settings(), quiet)
    assert not (tmp_path / "a").exists()


def test_fewer_windows_than_a_batch(base, windows, tmp_path):
    with pytest.raises(DatasetError, match=r"fewer than a batch of 500.*lower"):
        train(base, windows, tmp_path, settings(batch_size=500), quiet)


def test_modules_that_the_base_does_not_have(base, windows, tmp_path):
    chosen = dataclasses.replace(settings(), target_modules=("no_such",))
    with pytest.raises(ConfigError, match="no_such"):
        train(base, windows, tmp_path, chosen, quiet)


def test_an_unreadable_checkpoint_is_named(base, windows, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000002.pt").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"step-00000002\.pt cannot be read"):
        train(base, windows, tmp_path, settings(), quiet)


def test_every_label_has_its_prompts(adapter_directory):
    adapter = read_adapter(adapter_directory)
    assert list(adapter.metadata.labels) == sorted(LABELS)
    services = services_of(adapter.metadata.labels)
    assert {service.service for service in services} == {"tcp-443", "tcp-other"}
    for service in services:
        prompt, pooled = adapter.embedding(service, 7)
        assert prompt.dtype == pooled.dtype == np.float16


def test_services_are_balanced_by_a_power():
    counts = {"many": 900, "few": 100}

    def share_of_few(power):
        weight = np.repeat([counts[n] ** (power - 1.0) for n in counts], list(counts.values()))
        latents = KindWindows(
            clean=torch.zeros(1), row=np.arange(1000), prompt=np.zeros(1000, int),
            version=np.zeros(1000, int), measured=np.zeros(1000, bool),
            plan=np.zeros(1000, int), number=np.zeros(1000, int), length=np.ones(1000, int),
            service=np.repeat([0, 1], list(counts.values())), weight=weight,
        )  # fmt: skip
        drawn = [choose_batch({(16, ""): latents}, 100, (0, k))[1] for k in range(40)]
        return (latents.service[np.concatenate(drawn)] == 1).mean()

    assert share_of_few(1.0) == pytest.approx(0.1, abs=0.02)
    assert share_of_few(0.5) == pytest.approx(0.25, abs=0.03)
    assert share_of_few(0.0) == pytest.approx(0.5, abs=0.03)


def test_noise_levels_are_logit_normal_and_shifted():
    chosen = FlowMatchingSettings(logit_mean=0.5, logit_std=0.7)
    levels = noise_levels(20_000, chosen, 3.0, torch.Generator().manual_seed(1))
    unshifted = levels / (3 - 2 * levels)
    logits = torch.logit(unshifted)
    assert logits.mean() == pytest.approx(0.5, abs=0.02)
    assert logits.std() == pytest.approx(0.7, abs=0.02)


def test_most_noise_levels_are_those_of_a_schedule_steps_if_asked(base):
    chosen = FlowMatchingSettings(schedule_steps=4, schedule_share=0.6)
    levels = noise_levels(20_000, chosen, 3.0, torch.Generator().manual_seed(1))
    taken = scheduler_for(base, "FlowMatchEulerDiscreteScheduler", 3.0, 4).sigmas[:4]
    assert taken[0] == 1
    for level in taken[1:]:
        assert torch.isclose(levels, level).float().mean() == pytest.approx(0.2, abs=0.01)
    others = ~torch.isclose(levels[:, None], taken).any(1)
    logits = torch.logit((levels / (3 - 2 * levels))[others])
    assert logits.std() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"schedule_steps": 1}, {"schedule_steps": -4}, {"schedule_share": 1.1}]
)
def test_a_schedule_of_one_step_has_nothing_after_its_first(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FlowMatchingSettings(**wrong)


def test_sizes_and_flags_and_first_packets_count_for_more():
    layout = layout_named("stateful")
    chosen = FlowMatchingSettings(emphasis=4.0, opening=3.0)
    weight = cell_weights(32, layout.width, 1, chosen)
    assert (weight[8:, layout.columns("ipv6_len")] == 4).all()
    assert (weight[8:, layout.columns("tcp_wsize")] == 1).all()
    assert (weight[8:, layout.columns("tcp_sprt")] == 1 / 4).all()
    times = weight[8:, layout.columns("flow_interarrival")]
    assert torch.equal(times[0], torch.tensor([2.0] * 12 + [1.0] * 6 + [0.25] * 6))
    assert (weight[:8] == 3 * weight[8:16]).all()
    coarse = cell_weights(32, layout.width, 8, chosen)
    assert torch.equal(coarse, weight.view(4, 8, -1, 8).mean((1, 3)))


def test_the_loss_is_weighted_and_adds_up_over_parts(base):
    layout = layout_named("stateful")
    columns = columns_with_tokens(layout, "tcp", 24, 1, 8)[[0, 1, 1]]  # IPv4, IPv6, IPv6
    rng = torch.Generator().manual_seed(0)
    batch = TrainingBatch(
        latents=torch.randn(3, 1, 16, int(columns[0].sum()), generator=rng),
        prompt=torch.randn(3, 5, 32, generator=rng), pooled=torch.randn(3, 32, generator=rng),
        empty_prompt=torch.zeros(5, 32), empty_pooled=torch.zeros(32), columns=columns,
    )  # fmt: skip

    @torch.no_grad()
    def loss(part=slice(None), **weights):
        same = torch.Generator().manual_seed(1)
        chosen = FlowMatchingSettings(**{"emphasis": 1.0, "opening": 1.0, **weights})
        return flow_matching_loss(base, batch, chosen, same, part).item()

    first, plain = loss(opening=1e9), loss()  # of 16 rows 8 are first
    assert loss(opening=3.0) == pytest.approx((3 * first + (2 * plain - first)) / 4, rel=1e-4)
    assert loss(opening=3.0) != pytest.approx(plain, rel=1e-3)
    assert loss(emphasis=4.0) != pytest.approx(plain, rel=1e-3)
    parts = loss(slice(0, 1), emphasis=4.0) + loss(slice(1, 3), emphasis=4.0)
    assert parts == pytest.approx(loss(emphasis=4.0), rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 0}, {"ema_decay": 1.0}, {"learning_rate": 0.0}, {"seed": -1},
        {"weight_decay": -0.1}, {"max_grad_norm": 0.0}, {"minutes": 0.0}, {"decay_share": 1.1},
    ],
)  # fmt: skip
def test_settings_check_themselves(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimizationSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"heldout_share": 0.6}, {"heldout_every": 0}, {"heldout_windows": 0}, {"patience": 0},
     {"min_gain": 1.0}],
)  # fmt: skip
def test_settings_of_evidence_check_themselves(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EvidenceSettings(**wrong)


def by_evidence(patience=1, min_gain=0.9, **optimization):
    """Return settings of a training that measures a quarter of the flows after each step."""
    evidence = EvidenceSettings(
        heldout_share=0.25, heldout_every=1, patience=patience, min_gain=min_gain
    )
    chosen = {"learning_rate": 1e-2, "warmup_steps": 0, **optimization}
    return dataclasses.replace(settings(**chosen), evidence=evidence)


def trained_facts(directory):
    return read_adapter(directory).metadata.trained


def test_a_training_that_gains_nothing_stops_and_resumes_bit_equal(base, windows, tmp_path):
    chosen = by_evidence(patience=3, steps=100, report_every=1, decay_share=0.5)
    whole = train(base, windows, tmp_path / "whole", chosen, quiet)
    # Step 1 is the first value. Steps 2 to 4 gain too little: the learning rate falls for four
    # steps, of which three gain too little again.
    facts = trained_facts(whole)
    assert (facts["steps"], facts["stopped"]) == (7, "no gain")
    for killed_after in (2, 4):
        broken = tmp_path / f"broken-{killed_after}"

        def stop(report, killed_after=killed_after):
            if report["step"] == killed_after + 1:
                raise Stop

        with pytest.raises(Stop):
            train(base, windows, broken, chosen, stop)
        assert checkpoints_in(broken / "checkpoints")[-1].name == f"step-{killed_after:08d}.pt"
        seen = []
        train(base, windows, broken, chosen, seen.append)
        assert [values["step"] for values in seen] == list(range(killed_after + 1, 8))
        assert same(weights(whole), weights(broken))
        assert trained_facts(broken) == facts


def test_the_weights_of_the_lowest_held_out_loss_are_the_result(base, windows, tmp_path):
    reports = []
    # So high a learning rate, without an average, that the loss goes up and down.
    wild = {"patience": 100, "learning_rate": 5.0, "ema_decay": 0.0, "decay_share": 0.0}
    chosen = by_evidence(steps=12, report_every=1, **wild)
    whole = train(base, windows, tmp_path / "whole", chosen, reports.append)
    losses = [values["heldout_loss"] for values in reports]
    facts = trained_facts(whole)
    assert facts["heldout_loss"] == min(losses)
    assert facts["best_step"] == 1 + int(np.argmin(losses)) < facts["steps"] == 12
    until_best = by_evidence(steps=facts["best_step"], **wild)
    assert same(weights(whole), weights(train(base, windows, tmp_path / "b", until_best, quiet)))


def test_no_step_learns_from_held_out_windows(base, windows):
    none = dataclasses.replace(settings(), evidence=EvidenceSettings(heldout_share=0.0))
    all_windows = make_training_set(base, [windows], none)
    assert not train_module.heldout_batches(all_windows, 2)
    training_set = make_training_set(base, [windows], by_evidence())
    assert training_set.services == all_windows.services
    batches = train_module.heldout_batches(training_set, 2)
    assert all(len(chosen) <= 2 for _, chosen in batches)
    heldout = {(kind, int(i)) for kind, chosen in batches for i in chosen}
    assert len(heldout) >= 2 * len(LABELS)  # of each label two flows of eight
    drawn = [choose_batch(training_set.by_kind, 8, (0, k)) for k in range(50)]
    learnt = {(kind, int(i)) for kind, chosen in drawn for i in chosen}
    assert not heldout & learnt
    assert len(heldout | learnt) == len(windows)


def test_minutes_end_a_training_and_those_before_a_kill_count(base, windows, tmp_path):
    chosen = by_evidence(min_gain=0.0, patience=100, steps=50, minutes=500.0, decay_share=0.0)
    checkpoints = tmp_path / "checkpoints"

    def stop(report):
        raise Stop

    with pytest.raises(Stop):
        train(base, windows, tmp_path, dataclasses.replace(
            chosen, optimization=dataclasses.replace(chosen.optimization, report_every=3)
        ), stop)  # fmt: skip
    path = checkpoints_in(checkpoints)[-1]
    saved = torch.load(path, weights_only=True)
    assert 0 < saved["schedule"]["elapsed_s"] < 500 * 60
    saved["schedule"]["elapsed_s"] = 500.0 * 60
    torch.save(saved, path)
    facts = trained_facts(train(base, windows, tmp_path, chosen, quiet))
    assert (facts["steps"], facts["stopped"]) == (3, "minutes")


def test_a_bfloat16_base_gets_float32_lora(toy_directory, windows, tmp_path):
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu", dtype="bfloat16"))
    directory = train(base, windows, tmp_path, with_control(steps=2), quiet)
    assert {w.dtype for w in weights(directory).values()} == {np.dtype(np.float32)}
    adapter = read_adapter(directory)
    load_adapter(base, adapter)
    assert base.dtype == torch.bfloat16
    sample = plan_flow(adapter.metadata, "chat", 0, 0).samples[0]
    chosen = DrawSettings(steps=2, batch_size=2, control_scale=1.0)
    (drawn,) = draw(base, adapter, [sample], chosen)
    assert drawn.nprint.shape == (sample.height, 704)
