"""The deployment that repairs."""

import asyncio
import time
from functools import partial

from ray import serve

from netdiff_ray.distributed.metrics import (
    ENDPOINT,
    count_flows,
    count_quarantined,
    observe_repair,
    observe_stage,
)
from netdiff_ray.generation.flow_repair import RepairedFlow, compile_kernels, repair_flow
from netdiff_ray.generation.shard_plan import unpack_cells
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.addresses import AddressPair
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.repair.context import PayloadMode
from netdiff_ray.storage.manifest import reason_kind


@serve.deployment
class Repairer:
    """Makes drawings into packets."""

    def __init__(self):
        compile_kernels()

    async def flow(
        self,
        metadata: AdapterMetadata,
        label: str,
        index: int,
        cells: bytes,
        seed: int,
        payload: PayloadMode,
        addresses: AddressPair,
    ) -> RepairedFlow:
        """Repair a flow, see `repair_flow`; `cells` are its packed windows."""
        nprint = unpack_cells(cells, layout_named(metadata.layout).width)
        began = time.monotonic()
        flow = await asyncio.to_thread(
            partial(
                repair_flow,
                metadata,
                label,
                index,
                nprint,
                seed=seed,
                payload=payload,
                addresses=addresses,
            )
        )
        observe_stage(ENDPOINT, "repair", time.monotonic() - began)
        if flow.reason:
            count_quarantined(ENDPOINT, "repair", [reason_kind({"reason": flow.reason})])
        else:
            count_flows(ENDPOINT, "repair", label, flows=1, packets=len(flow.caplen))
            observe_repair(ENDPOINT, label, [flow.distance])
        return flow
