"""The endpoint on Ray Serve: an ingress, and two deployments that scale independently.

request -> Denoiser (base and adapters; windows of many requests in batches of the same kind)
        -> Repairer (on CPUs) -> Endpoint, which streams flows in order

A flow is a function of adapter, seed and settings alone, so that a flow whose replica died is made
again by another.
"""

from netdiff_ray.distributed.serve.application import build

__all__ = ["build"]
