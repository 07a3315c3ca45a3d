"""Make a training set of the windows that the ranks of a process group hold.

A window passes once: it is counted, its latents are kept, the rest is dropped. The memory of a
rank is the latents of its windows (float16; 1/12 of the raster's bytes for SD3's autoencoder), some
200 bytes for each window of all ranks, and with ControlNet as many for the plan of each flow.
Statistics are of all flows, those that are held out too (`diffusion.heldout`).

Shape letters: N windows, n windows of this rank, C x h x w latents, T text tokens, D, E their
widths.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from netdiff_ray.config.diffusion import TrainSettings
from netdiff_ray.diffusion.adapter import Embeddings
from netdiff_ray.diffusion.base import Base, check_size, encode_rasters, require_controlnet
from netdiff_ray.diffusion.heldout import held_out, measured
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.diffusion.prompts import embed_services
from netdiff_ray.diffusion.token_pruning import (
    Kind,
    columns_with_tokens,
    headers_in,
    transport_of,
)
from netdiff_ray.errors import DatasetError
from netdiff_ray.fields import HEADERS
from netdiff_ray.labels.counts import (
    LabelCounts,
    count_windows,
    fold_counts,
    folding_of,
    merge_counts,
)
from netdiff_ray.labels.flow_plan import PlannedWindow, seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows, check_windows
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.sessions import SessionStatistics, describe_sessions
from netdiff_ray.labels.statistics import (
    ServiceStatistics,
    describe_counts,
    most_option_octets,
)
from netdiff_ray.labels.window_plans import CapturedPlan, FlowKey, captured_plans, planned_window
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import HEIGHTS, Layout, height_for, layout_named
from netdiff_ray.raster import to_rgb

_ENCODED_AT_ONCE = 8
_KEY_BYTES = 16


@dataclass(frozen=True)
class KindWindows:
    """The windows of one kind, of all ranks, which all have them in the same order."""

    clean: torch.Tensor
    """(n, C, h, w) float16 latents on the CPU, of the windows of this height in this rank, in the
    order in which they were given."""
    row: np.ndarray
    """(N,) int64 index of the window among those of `clean`; -1 where another rank holds it."""
    service: np.ndarray
    """(N,) int64 index of the service."""
    prompt: np.ndarray
    """(N,) int64 index of the prompt."""
    weight: np.ndarray
    """(N,) float64 how often the window is trained on, relative to others; 0 if held out."""
    measured: np.ndarray
    """(N,) bool: whether the held-out loss is measured on the window."""
    version: np.ndarray
    """(N,) int64 index of the IP version in `token_pruning.VERSIONS`."""
    plan: np.ndarray
    """(N,) int64 index of the flow's plan in `TrainingSet.plans`; -1 if it is not known."""
    number: np.ndarray
    """(N,) int64 number of the window in its flow, from 0."""
    length: np.ndarray
    """(N,) int64 packets."""
    columns: torch.Tensor | None = None
    """(2, w) bool, columns of the latents that have tokens, by IP version; None for all (see
    `token_pruning.columns_with_tokens`)."""


@dataclass(frozen=True)
class TrainingSet:
    """What batches are made of, on the base's device except the latents of windows."""

    by_kind: dict[Kind, KindWindows]
    """Windows by kind, low rasters first."""
    prompts: torch.Tensor
    """(prompts, T, D), the empty prompt last."""
    pooled: torch.Tensor
    """(prompts, E), the empty prompt last."""
    plans: list[CapturedPlan] | None
    """Plans of flows, which control images are made of; None without ControlNet."""
    services: dict[LabelService, ServiceStatistics]
    """Statistics by service, sorted."""
    sessions: SessionStatistics
    """How flows of all services follow each other at their clients."""
    embeddings: Embeddings
    """Of the services' prompts."""
    column_shares: dict[LabelService, np.ndarray]
    """(3, W) shares of 1, 0 and vacant among the packets, by service."""
    layout: Layout
    """Of the windows."""
    digest: str
    """Hex sha256 of the windows, independent of their order."""

    def planned_windows(self, kind: Kind, chosen: np.ndarray) -> list[PlannedWindow]:
        """Return windows of a kind, at indices (N,), as their flows' plans have them."""
        assert self.plans is not None
        windows, services = self.by_kind[kind], list(self.services)
        return [
            planned_window(
                services[windows.service[k]], self.plans[plan] if plan >= 0 else None,
                int(windows.number[k]), int(windows.length[k]),
            )
            for k, plan in zip(chosen.tolist(), windows.plan[chosen].tolist(), strict=True)
        ]  # fmt: skip


@dataclass
class _RankWindows:
    """What a rank keeps of its windows; lists have an entry for each."""

    keys: list[bytes] = field(default_factory=list)
    """Hashes of windows with label, flow and number; the training set is sorted by them."""
    heights: list[int] = field(default_factory=list)
    services: list[LabelService] = field(default_factory=list)
    """As they were captured, rare ones too."""
    flows: list[int] = field(default_factory=list)
    """Hashes of label and flow."""
    flow_ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Packets."""
    headers: list[str] = field(default_factory=list)
    """Headers of the packets, as in `ipv4 udp`."""
    numbers: list[int] = field(default_factory=list)
    """Numbers of the windows in their flows."""
    rows: list[int] = field(default_factory=list)
    """Indices among the windows of the height."""
    taken: Counter[int] = field(default_factory=Counter)
    """Windows by height."""
    counts: dict[LabelService, LabelCounts] = field(default_factory=dict)
    columns: dict[LabelService, np.ndarray] = field(default_factory=dict)
    """(3, W) int64 number of packets with 1, 0 and vacant in each column."""
    latents: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    waiting: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """Rasters by height that wait for others to be encoded with."""


class _WindowTable(NamedTuple):
    """The windows of all ranks, in the order of the ranks; arrays of (N,)."""

    keys: list[bytes]
    rank: np.ndarray
    height: np.ndarray
    service: np.ndarray
    flow: np.ndarray
    prompt: np.ndarray
    row: np.ndarray
    headers: np.ndarray
    plan: np.ndarray
    number: np.ndarray
    length: np.ndarray


def make_training_set(
    base: Base,
    parts: Iterable[LabelledWindows],
    settings: TrainSettings,
    process_group: ProcessGroup = SINGLE_PROCESS,
    with_latents: bool = True,
) -> TrainingSet:
    """Make a training set of the windows of all ranks.

    It does not depend on which rank has which windows, nor on their order. A window of a service
    that learns from n windows has weight n ** (balance - 1), so that the service has n ** balance.

    Args:
        base: encodes.
        parts: this rank's windows, all of one layout; a part is dropped once it has passed.
        settings: of the training.
        process_group: the ranks that take part.
        with_latents: encode the windows; otherwise `KindWindows.clean` is empty, for batches of
            rasters that are not those of the windows.

    Raises:
        DatasetError: the windows are malformed, or fewer than a batch.
        ModelError: the base cannot draw rasters of their size, or lacks text encoders or
            ControlNet.
    """
    with_control = settings.objective.control_scale > 0
    if with_control:
        require_controlnet(base)
    windows = _RankWindows()
    name = ""
    for part in parts:
        check_windows(part, settings.max_height)
        name = part.layout.name
        _take(base, windows, part, settings.max_height, with_latents)
    for height in windows.waiting:
        _encode_waiting(base, windows, height)
    layout = layout_named(max(process_group.all_gather(name)))
    counts = merge_counts(process_group.all_gather(windows.counts))
    folding = folding_of(counts)
    counts = fold_counts(counts, folding)
    services = describe_counts(counts)
    _require_batch(services, settings.optimization.batch_size)
    _check_heights(base, services, layout.width, settings.max_height)
    is_first = process_group.rank == 0
    embeddings = embed_services(base, settings.prompt, services, settings.t5) if is_first else None
    embeddings = process_group.all_gather(embeddings)[0]
    plans = captured_plans(counts) if with_control else {}
    table = _gather_windows(windows, folding, services, embeddings, plans, process_group)
    by_kind = _group_by_kind(
        base, table, windows.latents, services, settings, layout, process_group.rank
    )
    prompts = [*embeddings.prompt.values(), embeddings.empty_prompt]
    pooled = [*embeddings.pooled.values(), embeddings.empty_pooled]
    return TrainingSet(
        by_kind=by_kind,
        prompts=torch.from_numpy(np.stack(prompts)).to(base.device).float(),
        pooled=torch.from_numpy(np.stack(pooled)).to(base.device).float(),
        plans=list(plans.values()) if with_control else None,
        services=services,
        sessions=describe_sessions(counts),
        embeddings=embeddings,
        column_shares=_column_shares(windows.columns, folding, process_group),
        layout=layout,
        digest=hashlib.sha256(b"".join(sorted(table.keys))).hexdigest(),
    )


def _require_batch(services: dict[LabelService, ServiceStatistics], batch_size: int) -> None:
    """Raise DatasetError unless the windows suffice for a batch."""
    num_windows = sum(statistics.num_windows for statistics in services.values())
    if num_windows < batch_size:
        raise DatasetError(
            f"{num_windows} windows are fewer than a batch of {batch_size}: lower batch_size, or "
            "encode more captures"
        )


def _take(
    base: Base,
    windows: _RankWindows,
    part: LabelledWindows,
    max_height: int,
    with_latents: bool,
) -> None:
    """Count windows, and encode them, eight of a height at a time, or do not."""
    windows.counts = merge_counts([windows.counts, count_windows(part, max_height)])
    columns = zip(part.nprint, part.label, part.service, part.flow, part.window, strict=True)
    for nprint, label, service, flow, number in columns:
        key = LabelService(label, service)
        in_columns = np.stack([(nprint == value).sum(0) for value in (1, 0, VACANT)])
        windows.columns[key] = windows.columns.get(key, 0) + in_columns
        height = height_for(len(nprint))
        windows.keys.append(_key(nprint, label, flow, number))
        windows.heights.append(height)
        windows.services.append(key)
        windows.flows.append(seed_of(0, label, 0, flow))
        windows.flow_ids.append(flow)
        windows.lengths.append(len(nprint))
        windows.headers.append(" ".join(headers_in(nprint, part.layout)))
        windows.numbers.append(int(number))
        windows.rows.append(windows.taken[height])
        windows.taken[height] += 1
        if with_latents:
            waiting = windows.waiting.setdefault(height, [])
            waiting.append(to_rgb(nprint, height))
            if len(waiting) == _ENCODED_AT_ONCE:
                _encode_waiting(base, windows, height)


def _key(nprint: np.ndarray, label: str, flow: str, number: int) -> bytes:
    """Return a hash of a window with its label, flow and number."""
    key = hashlib.blake2b(f"{label}\x1f{flow}\x1f{number}\x1f".encode(), digest_size=_KEY_BYTES)
    key.update(np.ascontiguousarray(nprint, np.int8).tobytes())
    return key.digest()


def _encode_waiting(base: Base, windows: _RankWindows, height: int) -> None:
    """Encode the rasters that wait.

    Always as many at once, so that the latents of a window do not depend on its companions.
    """
    waiting = windows.waiting[height]
    if waiting:
        filled = waiting + [waiting[-1]] * (_ENCODED_AT_ONCE - len(waiting))
        latents = encode_rasters(base, np.stack(filled))[: len(waiting)]
        windows.latents.setdefault(height, []).append(latents.half().cpu())
        waiting.clear()


def _check_heights(
    base: Base, services: dict[LabelService, ServiceStatistics], width: int, max_height: int
) -> None:
    """Raise ModelError unless the base can draw all heights that services need."""
    most_packets = max(statistics.most_packets for statistics in services.values())
    highest = height_for(min(most_packets, max_height))
    for height in HEIGHTS[: HEIGHTS.index(highest) + 1]:
        check_size(base, height, width)


def _column_shares(
    columns: dict[LabelService, np.ndarray],
    folding: dict[LabelService, LabelService],
    process_group: ProcessGroup,
) -> dict[LabelService, np.ndarray]:
    """Return the shares of 1, 0 and vacant among the packets of services, (3, W) float64.

    Args:
        columns: numbers of them in this rank's windows, by services as they were captured.
        folding: what these count as.
        process_group: the ranks that take part.
    """
    summed: dict[LabelService, np.ndarray] = {}
    for part in process_group.all_gather(columns):
        for service, numbers in part.items():
            summed[folding[service]] = summed.get(folding[service], 0) + numbers
    return {service: numbers / numbers.sum(axis=0) for service, numbers in summed.items()}


def _gather_windows(
    windows: _RankWindows,
    folding: dict[LabelService, LabelService],
    services: dict[LabelService, ServiceStatistics],
    embeddings: Embeddings,
    plans: dict[FlowKey, CapturedPlan],
    process_group: ProcessGroup,
) -> _WindowTable:
    """Return a table of the windows of all ranks."""
    plan_index = {key: k for k, key in enumerate(plans)}
    service_index = {service: k for k, service in enumerate(services)}
    prompt_index = {key: k for k, key in enumerate(embeddings.prompt)}
    of_windows = [folding[service] for service in windows.services]
    prompts = [
        prompt_index[service, min(number, services[service].num_prompts - 1)]
        for service, number in zip(of_windows, windows.numbers, strict=True)
    ]
    columns = (
        windows.keys,
        np.array(windows.heights, np.int64),
        np.array([service_index[service] for service in of_windows], np.int64),
        np.array(windows.flows, np.int64),
        np.array(prompts, np.int64),
        np.array(windows.rows, np.int64),
        np.array(windows.headers, f"U{len(' '.join(HEADERS))}"),
        np.array(
            [plan_index.get(key, -1) for key in zip(of_windows, windows.flow_ids, strict=True)],
            np.int64,
        ),
        np.array(windows.numbers, np.int64),
        np.array(windows.lengths, np.int64),
    )
    keys, *arrays = zip(*process_group.all_gather(columns), strict=True)
    return _WindowTable(
        [key for rank_keys in keys for key in rank_keys],
        np.repeat(np.arange(process_group.size), [len(rank_keys) for rank_keys in keys]),
        *(np.concatenate(of_ranks) for of_ranks in arrays),
    )


def _group_by_kind(
    base: Base,
    table: _WindowTable,
    latents: dict[int, list[torch.Tensor]],
    services: dict[LabelService, ServiceStatistics],
    settings: TrainSettings,
    layout: Layout,
    rank: int,
) -> dict[Kind, KindWindows]:
    """Return the windows of all ranks by kind, in the order of their keys.

    Args:
        base: gives the sizes of latents and tokens.
        table: the windows of all ranks.
        latents: those of this rank, by height.
        services: statistics of all services, sorted.
        settings: of the training.
        layout: of the windows.
        rank: of this process.
    """
    transport = np.array([transport_of(headers.split()) for headers in table.headers])
    version = np.array(["ipv6" in headers.split() for headers in table.headers], np.int64)
    order = np.array(sorted(range(len(table.keys)), key=table.keys.__getitem__))
    weight, is_measured = _weights(table.service[order], table.flow[order], settings)
    by_height = {}
    for height in set(table.height.tolist()):
        empty = torch.empty((0, *base.latent_shape(height, layout.width)), dtype=torch.float16)
        by_height[height] = torch.cat([empty, *latents.get(height, [])])
    by_kind = {}
    kinds = sorted(set(zip(table.height.tolist(), transport.tolist(), strict=True)))
    for kind_height, kind_transport in kinds:
        in_kind = (table.height[order] == kind_height) & (transport[order] == kind_transport)
        chosen = order[in_kind]
        by_kind[kind_height, kind_transport] = KindWindows(
            clean=by_height[kind_height],
            row=np.where(table.rank[chosen] == rank, table.row[chosen], -1),
            service=table.service[chosen],
            prompt=table.prompt[chosen],
            weight=weight[in_kind],
            measured=is_measured[in_kind],
            version=version[chosen],
            plan=table.plan[chosen],
            number=table.number[chosen],
            length=table.length[chosen],
            columns=columns_with_tokens(
                layout, kind_transport, most_option_octets(services.values()), base.vae_scale,
                base.transformer.config.patch_size,
            ),
        )  # fmt: skip
    return by_kind


def _weights(
    service: np.ndarray, flow: np.ndarray, settings: TrainSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of windows, and whether the held-out loss is measured on them.

    Args:
        service: (N,) int64 index of the window's service.
        flow: (N,) int64 hash of its flow.
        settings: of the training.
    """
    is_held_out = held_out(service, flow, settings.evidence.heldout_share)
    is_measured = measured(service, is_held_out, settings.evidence.heldout_windows)
    num_windows = np.bincount(service[~is_held_out], minlength=service.max() + 1)
    weight = np.where(
        is_held_out, 0.0, np.maximum(num_windows, 1.0)[service] ** (settings.balance - 1)
    )
    return weight, is_measured
