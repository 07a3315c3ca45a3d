"""The plans of training windows, as generation would draw them.

So that a ControlNet is trained on what it will see: the plan of a flow that was captured has the
same parts as one that is drawn, and the cells that `labels.planned_cells` says of it are those of
its raster.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from netdiff_ray.labels.counts import LabelCounts
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.path import UNPLANNED_PATH, FlowPath
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.stack import UNPLANNED, FlowStack
from netdiff_ray.labels.stack_counts import as_planned
from netdiff_ray.labels.statistics import stacks_by_flow
from netdiff_ray.nprint.layouts import height_for


@dataclass(frozen=True)
class CapturedPlan:
    """What plans say of a flow that was captured."""

    stack: FlowStack
    """Of its hosts; with their windows even where no other flow has them."""
    path: FlowPath
    """UNPLANNED_PATH unless a handshake opens it."""


FlowKey = tuple[LabelService, str]
"""A label's service, and the id of a flow of it."""


def captured_plans(counts: Mapping[LabelService, LabelCounts]) -> dict[FlowKey, CapturedPlan]:
    """Return the plans of the flows whose first windows were counted, sorted by key.

    Args:
        counts: by the services that flows count as.
    """
    plans = {}
    for service, own in counts.items():
        stacks = stacks_by_flow(own)
        for flow, stack in zip(stacks, as_planned(list(stacks.values())), strict=True):
            opened = stack.opens == 1 and not stack.sends_one_way
            path = own.paths.get(flow, UNPLANNED_PATH) if opened else UNPLANNED_PATH
            plans[service, flow] = CapturedPlan(stack, path)
    return dict(sorted(plans.items(), key=lambda item: item[0]))


def planned_window(
    service: LabelService, plan: CapturedPlan | None, number: int, length: int
) -> PlannedWindow:
    """Return a window of a captured flow as its plan has it.

    Args:
        service: of the flow.
        plan: of the flow; None if it is not known.
        number: of the window in its flow, from 0.
        length: packets.
    """
    plan = plan or CapturedPlan(UNPLANNED, UNPLANNED_PATH)
    return PlannedWindow(
        label=service.label, service=service.service, index=0, window=number,
        height=height_for(length), length=length, headers=tuple(plan.stack.headers.split()),
        stack=plan.stack, path=plan.path,
    )  # fmt: skip
