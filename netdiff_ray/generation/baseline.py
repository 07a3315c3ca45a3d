"""Random bits in the place of a model's: what plan and repair make of a flow that nothing drew.

Shape letters: R rows of all windows, B bits.
"""

import numpy as np

from netdiff_ray.generation.shard_builder import build_planned_shard
from netdiff_ray.generation.shard_plan import ShardPlan, ShardSettings, windows_to_draw
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.planned_cells import OPEN, planned_values
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.storage.shards import Shard


def random_cells(metadata: AdapterMetadata, plan: ShardPlan, seed: int) -> np.ndarray:
    """Return (R, B) int8 of 1, 0, -1 for the windows of `windows_to_draw`, one after another.

    What the plans decide is as they say, also the values that drawing holds (see `planned_values`);
    where they want bits, each is 0 or 1 with equal chance, and elsewhere each cell is 0, 1 or
    vacant.

    Args:
        seed: of the run.
    """
    from netdiff_ray.diffusion.plan_constraints import planned_cells

    layout = layout_named(metadata.layout)
    width = layout.width
    cells = [np.empty((0, width), np.int8)]
    for flow in windows_to_draw(metadata, plan, seed):
        for sample in flow:
            purpose = f"baseline {sample.window}"
            random = np.random.default_rng(seed_of(seed, sample.label, sample.index, purpose))
            shape = sample.height, width
            vacant, occupied = (of_all[0] for of_all in planned_cells([sample], width))
            drawn = random.integers(-1, 2, shape, np.int8)
            bits = random.integers(0, 2, shape, np.int8)
            random_rows = np.where(vacant, np.int8(VACANT), np.where(occupied, bits, drawn))
            planned = planned_values(sample, layout)
            cells.append(np.where((planned == OPEN) | vacant, random_rows, planned))
    return np.concatenate(cells)


def random_shard(metadata: AdapterMetadata, plan: ShardPlan, settings: ShardSettings) -> Shard:
    """Return the shard that repair makes of random bits under the plans of its flows."""
    return build_planned_shard(
        metadata, plan, random_cells(metadata, plan, settings.seed), settings
    )
