"""Several processes, each holding some of the windows, make the adapter that one makes."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import quiet, with_control

from netdiff_ray.config.diffusion import BaseSettings, EvidenceSettings
from netdiff_ray.diffusion.adapter import LORA_FILE, read_metadata
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.process_group import ProcessGroup
from netdiff_ray.diffusion.train import fine_tune, train
from netdiff_ray.diffusion.training_set import make_training_set


def process_groups(size, turn):
    """Return the ranks of a group of threads, of which the holder of `turn` runs."""
    barrier = threading.Barrier(size)
    given = [None] * size

    def meet():
        turn.release()
        try:
            barrier.wait(60)
        finally:
            turn.acquire()

    def exchange(rank, thing):
        given[rank] = thing
        meet()
        gathered = list(given)
        meet()
        return gathered

    return [
        ProcessGroup(
            rank=k,
            size=size,
            all_reduce=lambda tensor, k=k: torch.stack(exchange(k, tensor.clone())).sum(0),
            all_gather=lambda thing, k=k: exchange(k, thing),
        )
        for k in range(size)
    ]


def chosen_windows(windows, chosen):
    columns = ("nprint", "label", "service", "flow", "window")
    return dataclasses.replace(
        windows, **{name: [getattr(windows, name)[i] for i in chosen] for name in columns}
    )


def load(directory):
    return load_base(BaseSettings(base=str(directory), device="cpu"))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_slices_of_a_batch_make_it_up_and_differ_by_one_at_most(size):
    for things in (1, 5, 8, 20):
        parts = [ProcessGroup(k, size, None, None).part_of(things) for k in range(size)]
        assert [i for part in parts for i in range(things)[part]] == list(range(things))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_the_training_set_does_not_depend_on_order_or_parts(toy_directory, windows):
    base = load(toy_directory)
    backwards = chosen_windows(windows, range(len(windows))[::-1])
    parts = [chosen_windows(backwards, [i]) for i in range(len(windows))]
    whole = make_training_set(base, [windows], with_control())
    other = make_training_set(base, parts, with_control())
    assert whole.digest == other.digest
    assert whole.services == other.services
    for (height, transport), latents in whole.by_kind.items():
        other_latents = other.by_kind[height, transport]
        assert torch.equal(latents.clean[latents.row], other_latents.clean[other_latents.row])
        assert np.array_equal(latents.service, other_latents.service)
        assert np.array_equal(latents.prompt, other_latents.prompt)
        every = np.arange(len(latents.row))
        plans = whole.planned_windows((height, transport), every)
        assert plans == other.planned_windows((height, transport), every)
        assert any(plan.stack.client_lifetime == 64 for plan in plans)
    for service, shares in whole.column_shares.items():
        assert np.array_equal(shares, other.column_shares[service])
        ports = (
            {service.service}
            if service.service != "tcp-other"
            else {"tcp-9000", "tcp-9001", "tcp-9002"}
        )
        packets = np.concatenate(
            [
                nprint
                for nprint, label, name in zip(
                    windows.nprint, windows.label, windows.service, strict=True
                )
                if label == service.label and name in ports
            ]
        )
        assert np.allclose(shares, [(packets == value).mean(0) for value in (1, 0, -1)])
    shorter = make_training_set(base, parts[1:], with_control())
    assert shorter.digest != whole.digest


# The last rank has no window to hold, and a batch of two leaves it none to compute.
@pytest.mark.parametrize(
    "ranges", [[slice(10), slice(10, None)], [slice(20), slice(20, None), slice(0)]]
)
def test_ranks_make_the_adapter_of_one_process(toy_directory, windows, tmp_path, ranges):
    # Two steps that gain too little, and a third in which the learning rate falls.
    evidence = EvidenceSettings(heldout_share=0.25, heldout_every=1, patience=1, min_gain=0.9)
    how = dataclasses.replace(
        with_control(steps=9, accumulate=2, learning_rate=1e-2), evidence=evidence
    )
    alone = train(load(toy_directory), windows, tmp_path / "alone", how, quiet)
    reports = [[] for _ in ranges]
    bases = [load(toy_directory) for _ in ranges]
    turn = threading.Lock()

    def work(process_group):
        rank = process_group.rank
        chosen = range(len(windows))[ranges[rank]]
        parts = [chosen_windows(windows, chosen)] if chosen else []
        with turn:
            fine_tune(
                bases[rank], parts, tmp_path / f"rank-{rank}", tmp_path / "none", how,
                reports[rank].append, process_group, lambda state: None,
            )  # fmt: skip

    with ThreadPoolExecutor(len(ranges)) as pool:
        list(pool.map(work, process_groups(len(ranges), turn)))
    expected, trained = (load_file(d / LORA_FILE) for d in (alone, tmp_path / "rank-0"))
    assert expected.keys() == trained.keys()
    assert all(np.allclose(expected[k], trained[k], rtol=0, atol=1e-5) for k in expected)
    assert any(np.abs(w).max() > 1e-3 for k, w in trained.items() if "lora_B" in k)
    facts = [read_metadata(d).trained for d in (alone, tmp_path / "rank-0")]
    assert facts[0] == pytest.approx(facts[1], abs=1e-5)
    assert (facts[0]["steps"], facts[0]["stopped"]) == (3, "no gain")
    assert read_metadata(alone).labels == read_metadata(tmp_path / "rank-0").labels
    assert not (tmp_path / "rank-1").exists()
    assert all(len(of_rank) == len(reports[0]) for of_rank in reports)
