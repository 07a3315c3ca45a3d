"""The rule that settles what each flow speaks.

Shape letters: N flows.
"""

import numpy as np

from netdiff_ray.dialogue import port_kinds
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext


def kinds(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle each flow's kind: as planned, else what its server port means over its transport.

    Without dialogues, and of ICMP, it stays opaque.
    """
    if context.payload != "dialogue":
        return
    flows = batch.flows
    for transport in (IPPROTO_TCP, IPPROTO_UDP):
        chosen = flows.protocol == transport
        flows.kind[chosen] = port_kinds(transport)[flows.server_port[chosen]]
    planned = (batch.plans.kind != UNKNOWN) & np.isin(flows.protocol, (IPPROTO_TCP, IPPROTO_UDP))
    flows.kind[planned] = batch.plans.kind[planned]
