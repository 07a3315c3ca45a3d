"""The bodies of streamed answers: captures of repaired flows, and drawings."""

import asyncio
import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from netdiff_ray.distributed.serve.denoiser import Drawing
from netdiff_ray.generation.flow_repair import RepairedFlow, flow_id
from netdiff_ray.generation.shard_plan import unpack_cells
from netdiff_ray.generation.stream import CaptureStream, DrawingStream
from netdiff_ray.labels.addresses import AddressPair, flow_addresses, plan_addresses
from netdiff_ray.labels.flow_plan import PlannedWindow, plan_flow, seed_of
from netdiff_ray.nprint.layouts import HEIGHTS, layout_named
from netdiff_ray.serving.catalogue import OfferedAdapter
from netdiff_ray.serving.problems import unavailable
from netdiff_ray.serving.requests import FlowsRequest
from netdiff_ray.serving.streams import StreamReport

_TRIES = 3


class Drawer:
    """Draws the flows of a request on the denoisers.

    Args:
        faults: by adapter digest, why an adapter cannot draw; kept up to date.
    """

    def __init__(
        self,
        denoiser: DeploymentHandle,
        adapter: OfferedAdapter,
        *,
        seed: int,
        steps: int,
        faults: dict[str, str],
    ):
        self.adapter = adapter
        self.seed = seed
        self._steps = steps
        self._faults = faults
        self._owner = secrets.token_hex(8)
        model_id = f"{adapter.digest}:{adapter.uri}"
        self._draw = denoiser.options(multiplexed_model_id=model_id).draw

    def windows(self, label: str, index: int) -> list[PlannedWindow]:
        """Return the windows to draw of a flow."""
        return plan_flow(self.adapter.metadata, label, self.seed, index).samples

    async def draw(self, label: str, index: int) -> bytes:
        """Draw the windows of a flow; they are packed, see `pack_cells`.

        Raises:
            Problem: 503, the adapter cannot draw them.
        """
        samples = self.windows(label, index)
        drawn: Drawing = await _call(self._draw, samples, self.seed, self._steps, self._owner)
        if drawn.fault:
            self._faults[self.adapter.digest] = drawn.fault
            raise unavailable(drawn.fault)
        self._faults.pop(self.adapter.digest, None)
        return drawn.cells


class _Lazy:
    """The items of an iterator by their number."""

    def __init__(self, items: Iterator[AddressPair]):
        self._items, self._taken = items, []

    def at(self, number: int) -> AddressPair:
        """Return an item."""
        missing = number + 1 - len(self._taken)
        self._taken += itertools.islice(self._items, max(missing, 0))
        return self._taken[number]


class CaptureBody:
    """A capture (pcap or pcapng) of flows that are drawn and repaired."""

    def __init__(self, drawer: Drawer, repairer: DeploymentHandle, request: FlowsRequest):
        self._drawer = drawer
        self._repair = repairer.flow
        self._payload = request.payload
        self._capture = CaptureStream(
            request.format, order=request.order, flows_per_second=request.flows_per_second,
            seed=seed_of(drawer.seed, min(request.labels), 0, "arrivals"),
            start_ns=request.pins().start_ns(),
        )  # fmt: skip
        metadata = drawer.adapter.metadata
        plan = plan_addresses(metadata, request.labels, request.pins(), drawer.seed)
        self._hosts = {
            label: _Lazy(flow_addresses(metadata, label, drawer.seed, plan=plan))
            for label in request.labels
        }

    async def make(self, label: str, index: int) -> RepairedFlow:
        """Draw and repair a flow."""
        cells = await self._drawer.draw(label, index)
        metadata = self._drawer.adapter.metadata
        metadata = replace(metadata, labels={label: metadata.labels[label]})
        seed, hosts = self._drawer.seed, self._hosts[label].at(index)
        return await _call(self._repair, metadata, label, index, cells, seed, self._payload, hosts)

    def add(self, label: str, flow: RepairedFlow, report: StreamReport) -> bytes:
        """Return the bytes that a flow adds to the capture; report it if it is quarantined."""
        if flow.reason:
            report.quarantined.append(
                {"label": label, "flow_id": flow.flow_id, "reason": flow.reason}
            )
        return self._capture.add(flow)

    def end(self) -> bytes:
        """Return the end of the capture."""
        return self._capture.end()


class DrawingBody:
    """Drawings before repair (png or nprint): a file, or an archive of several."""

    def __init__(self, drawer: Drawer, request: FlowsRequest, flows: Sequence[tuple[str, int]]):
        self._drawer = drawer
        self._layout = layout_named(drawer.adapter.metadata.layout)
        rows = sum(sample.height for flow in flows[:2] for sample in drawer.windows(*flow))
        self.is_archive = len(flows) > 1 or rows > HEIGHTS[-1]
        self._drawings = DrawingStream(request.format, self._layout, archive=self.is_archive)

    async def make(self, label: str, index: int) -> tuple[str, np.ndarray]:
        """Draw a flow; return its id and its (R, B) int8 windows."""
        cells = await self._drawer.draw(label, index)
        return flow_id(self._drawer.seed, label, index), unpack_cells(cells, self._layout.width)

    def add(self, label: str, flow: tuple[str, np.ndarray], _report: StreamReport) -> bytes:
        """Return the bytes that a flow adds to the file or archive."""
        return self._drawings.add(label, *flow)

    def end(self) -> bytes:
        """Return the end of the archive."""
        return self._drawings.end()


async def _call(method: DeploymentHandle, *arguments: object):
    """Return a replica's answer, another replica's if it dies; cancelled with the caller.

    Raises:
        Problem: 503, several replicas died.
    """
    for _ in range(_TRIES):
        response = method.remote(*arguments)
        try:
            return await response
        except RayActorError:
            continue
        except DeploymentUnavailableError as error:
            raise unavailable(str(error)) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
    raise unavailable(f"{_TRIES} replicas died of this request, or while it waited")
