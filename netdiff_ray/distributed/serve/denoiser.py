"""The deployment that draws."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ray import serve

from netdiff_ray.config import ServeConfig
from netdiff_ray.diffusion.adapter import Adapter, adapter_digest, unpack_adapter
from netdiff_ray.distributed.metrics import ENDPOINT, observe_drawing, set_queue_length
from netdiff_ray.errors import ModelError, NetdiffError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.shard_plan import pack_cells
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.serving.batcher import Batcher
from netdiff_ray.storage.store import open_store, public_uri

if TYPE_CHECKING:
    from netdiff_ray.diffusion.base import Base

_ADAPTERS_PER_REPLICA = 3
"""Adapters that a denoiser holds, each with its base; the least recently used is dropped."""


class Drawing(NamedTuple):
    """A drawing, or why the adapter cannot draw."""

    cells: bytes
    """The flow's windows, see `pack_cells`."""
    fault: str = ""
    """Empty if it was drawn."""


class _Model(NamedTuple):
    """A base with an adapter in it."""

    base: "Base"
    adapter: Adapter


@serve.deployment
class Denoiser:
    """Draws flows with the requested adapters, which it loads on demand."""

    def __init__(self, config: ServeConfig, gpus: float):
        from netdiff_ray.diffusion import denoise, lora  # noqa: F401 - long to load

        if not gpus:
            _lower_priority()
        self._config = config
        self._gpus = gpus
        self._batcher = Batcher(self._work, config.draw.batch_size)

    async def draw(
        self, samples: Sequence[PlannedWindow], seed: int, steps: int, owner: str
    ) -> Drawing:
        """Draw the windows of a flow.

        Args:
            owner: the request that it is for; requests take turns.
        """
        from netdiff_ray.diffusion.denoise import kind_of

        model_id = serve.get_multiplexed_model_id()
        try:
            model = await self.model(model_id)
            windows = [
                self._batcher((model_id, *kind_of(sample), steps), (model, sample, seed), owner)
                for sample in samples
            ]
            return Drawing(pack_cells(await asyncio.gather(*windows)))
        except NetdiffError as error:
            return Drawing(b"", str(error))

    @serve.multiplexed(max_num_models_per_replica=_ADAPTERS_PER_REPLICA)
    async def model(self, model_id: str) -> _Model:
        """Load the model of `model_id`, an adapter's digest and URI with `:` between them."""
        digest, _, uri = model_id.partition(":")
        return await asyncio.to_thread(self._load, uri, digest)

    def _load(self, uri: str, digest: str) -> _Model:
        from netdiff_ray.diffusion.lora import load_for_drawing

        config = self._config
        files = read_adapter_files(open_store(uri))
        if adapter_digest(files) != digest:
            raise ModelError(f"{public_uri(uri)} is changing; try again when it is complete")
        adapter = unpack_adapter(files)
        metadata, device = adapter.metadata, "cuda" if self._gpus else "cpu"
        settings = config.base_settings(metadata.base, metadata.revision, device)
        return _Model(load_for_drawing(adapter, settings, config.draw), adapter)

    def _work(self, kind: tuple[str, int, str, int], items: list) -> list[np.ndarray]:
        """Draw the nprints of (model, sample, seed) items of the same model, kind and steps."""
        from netdiff_ray.diffusion.denoise import draw_batch
        from netdiff_ray.raster import from_rgb

        models, samples, seeds = zip(*items, strict=True)
        settings = replace(self._config.draw, steps=kind[-1])
        model: _Model = models[0]
        began = time.monotonic()
        rasters = draw_batch(model.base, model.adapter, samples, settings, seeds)
        observe_drawing(ENDPOINT, time.monotonic() - began, [len(items) / settings.batch_size])
        set_queue_length("denoiser", len(self._batcher))
        return [from_rgb(raster)[0] for raster in rasters]


def _lower_priority() -> None:
    """Give this process only CPU time that no other process wants, so that requests which draw
    nothing are answered at once."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
