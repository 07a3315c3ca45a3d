"""What goes wrong while a batch is drawn, in words that say what to change."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.diffusion.base import Base
from netdiff_ray.diffusion.optimization import is_out_of_memory
from netdiff_ray.errors import ModelError
from netdiff_ray.labels.flow_plan import PlannedWindow


def describe_batch(
    base: Base, samples: Sequence[PlannedWindow], width: int, settings: DrawSettings
) -> str:
    """Return what a batch is and how it is drawn, as text.

    Args:
        base: what draws.
        samples: N of one kind.
        width: of the rasters.
        settings: of the drawing.
    """
    services = sorted({f"{sample.service} {sample.label}" for sample in samples})
    shift = base.shift if settings.shift is None else settings.shift
    dtype = str(base.dtype).removeprefix("torch.")
    return (
        f"{len(samples)} rasters of {samples[0].height} x {width} of {', '.join(services)}; "
        f"steps {settings.steps}, guidance {settings.guidance:g}, shift {shift:g}, control_scale "
        f"{settings.control_scale:g}, scheduler {settings.scheduler}, seed {settings.seed}, {dtype}"
    )


def require_finite(finite: Sequence[torch.Tensor], batch: str) -> None:
    """Raise ModelError unless what was predicted in each denoising step is finite numbers.

    Others would become rasters of arbitrary colours, or vacant flows; bounds of a plan hide
    infinity.

    Args:
        finite: a bool for each step, on any device; looked at once, after the last step.
        batch: see `describe_batch`.
    """
    wrong = (~torch.stack(list(finite))).nonzero().flatten().tolist()
    if wrong:
        raise ModelError(
            f"what the model predicts from step {wrong[0] + 1} of {len(finite)} on is not finite "
            f"numbers ({batch}): use dtype bfloat16 or float32, or lower guidance, control_scale "
            "or the scales of loras; if that changes nothing, the weights of the base or the "
            "adapter are damaged"
        )


@contextlib.contextmanager
def in_words(size: str, batch: str) -> Iterator[None]:
    """Turn torch's errors while a batch is drawn into ModelError.

    Their causes are shapes, types, memory and devices, which all batches of a run share, so that
    the run has to end; what a single plan can cause is no RuntimeError.

    Args:
        size: of the batch, as in `2 rasters of 64 x 656`.
        batch: see `describe_batch`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"out of memory drawing {size}: lower batch_size, set slice_vae or tile_vae, or "
                "encode captures with a lower height and train again"
            ) from None
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{type(error).__name__} while drawing {batch}: {reason}. Other batches would fail "
            "likewise: check that base, adapter, ControlNet and loras belong together, and the "
            "device's state"
        ) from error
