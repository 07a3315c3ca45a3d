"""Measure drawing and training against the floating-point operations they take.

    python benchmarks/diffusion.py [--full | --toy] [--compile] [--rows N ...] [--batches N ...]

On a GPU, or with --full, the architecture of SD3-medium (its configs stand below) with
random weights, whose values do not affect speed. Elsewhere the same code at toy width,
which shows that the command works and nothing more. Operations are counted by torch's
FlopCounterMode; the bound is the rate of a large matrix product of the same
dtype on the same device, measured in the same run. Rasters have the columns of the default layout.
Prints a table and writes benchmarks/out/diffusion.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from netdiff_ray.config.diffusion import BaseSettings, FlowMatchingSettings, TrainSettings
from netdiff_ray.diffusion.base import Base, Condition, decode_latents, device_of, velocity
from netdiff_ray.diffusion.lora import add_lora
from netdiff_ray.diffusion.objective import TrainingBatch, flow_matching_loss
from netdiff_ray.diffusion.optimization import is_out_of_memory
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named

OUT = Path(__file__).resolve().parent / "out"
WIDTH = layout_named(DEFAULT_LAYOUT).width
DRAWING_STEPS = 28
"""Steps of an image, diffusers' default for SD3."""

SD3_MEDIUM = {
    "transformer": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16,
        "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4, "norm_num_groups": 32,
        "scaling_factor": 1.5305, "shift_factor": 0.0609, "sample_size": 1024,
        "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
    },
    "text_tokens": 333, "rows": (64, 256, 1024), "batches": (1, 2, 4, 8, 16, 32, 64),
}  # fmt: skip
"""stabilityai/stable-diffusion-3-medium-diffusers: transformer and vae config.json."""

TOY = {
    "transformer": {
        **SD3_MEDIUM["transformer"], "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 32, "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
    },
    "vae": {**SD3_MEDIUM["vae"], "block_out_channels": (4, 4, 4, 4), "norm_num_groups": 4},
    "text_tokens": 16, "rows": (64, 256), "batches": (1, 2),
}  # fmt: skip
"""The same structure, narrow."""


def random_base(sizes: dict, device: torch.device, dtype: torch.dtype, compiled: bool) -> Base:
    """Return a base of random weights, without reading or downloading any."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        transformer = SD3Transformer2DModel(**sizes["transformer"])
        torch.set_default_dtype(torch.float32)
        vae = AutoencoderKL(**sizes["vae"])
    transformer.eval().requires_grad_(False)
    vae.eval().requires_grad_(False)
    if compiled:
        transformer.compile()
    return Base(
        settings=BaseSettings(base="random", compile=compiled), directory=Path("random"), digest="",
        transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), controlnet=None,
    )  # fmt: skip


def inputs(base: Base, sizes: dict, rows: int, count: int) -> tuple[torch.Tensor, Condition]:
    """Return noise and text embeddings of a batch."""
    options = {"device": base.device, "dtype": torch.float32}
    latents = torch.randn((count, *base.latent_shape(rows, WIDTH)), **options)
    config = base.transformer.config
    prompt = torch.randn((count, sizes["text_tokens"], config.joint_attention_dim), **options)
    pooled = torch.randn((count, config.pooled_projection_dim), **options)
    return latents, Condition(prompt, pooled)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return wall-clock seconds of a call, the best of three after a warm-up."""
    best = float("inf")
    for turn in range(4):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            best = min(best, time.perf_counter() - begin)
    return best


def operations(work: Callable[[], object]) -> int:
    """Count the floating-point operations of a call: two for each multiplication with addition."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / seconds(lambda: a @ a, device)


def drawing(base: Base, sizes: dict, rows: int, count: int) -> dict[str, float]:
    """Measure drawing `count` images: DRAWING_STEPS steps and the decoder."""
    latents, condition = inputs(base, sizes, rows, count)
    sigmas = torch.full((count,), 0.5)

    def step() -> torch.Tensor:
        with torch.no_grad():
            return velocity(base, latents, sigmas, condition)

    step_s = seconds(step, base.device)
    decode_s = seconds(lambda: decode_latents(base, latents), base.device)
    step_operations = 0 if base.settings.compile else operations(step)
    return {
        "seconds": DRAWING_STEPS * step_s + decode_s,
        "step_s": step_s,
        "decode_s": decode_s,
        "bound_s": DRAWING_STEPS * step_operations,
    }


def training(base: Base, sizes: dict, rows: int, count: int) -> dict[str, float]:
    """Measure a LoRA step on `count` windows with gradient checkpointing."""
    latents, condition = inputs(base, sizes, rows, count)
    batch = TrainingBatch(
        latents, condition.prompt, condition.pooled, condition.prompt[0], condition.pooled[0]
    )
    rng = torch.Generator()
    parameters = add_lora(base, TrainSettings(gradient_checkpointing=True))
    optimiser = torch.optim.AdamW(parameters.values())
    try:

        def step() -> None:
            flow_matching_loss(base, batch, FlowMatchingSettings(), rng).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        step_s = seconds(step, base.device)
        counted = 0 if base.settings.compile else operations(step)
        return {"seconds": step_s, "step_s": step_s, "bound_s": counted}
    finally:
        base.transformer.unload_lora()
        base.transformer.disable_gradient_checkpointing()


def measure(base: Base, sizes: dict, rows: int, count: int, kind: str, rate: float) -> dict | None:
    """Return a line of the table, or None if memory does not suffice."""
    work = drawing if kind == "draw" else training
    try:
        timing = work(base, sizes, rows, count)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        if base.device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "kind": kind,
        "rows": rows,
        "batch": count,
        "images_per_s": count / timing["seconds"],
        **timing,
        "bound_s": timing["bound_s"] / rate,
    }


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="SD3-medium's size, also on a CPU")
    size.add_argument("--toy", action="store_true", help="toy width, also on a GPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile, also on a CPU")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--batches", type=int, nargs="+")
    options = parser.parse_args()
    device = device_of("auto")
    full = options.full or (device.type == "cuda" and not options.toy)
    sizes = SD3_MEDIUM if full else TOY
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    dtypes = (torch.bfloat16, torch.float32) if full else (torch.float32,)
    compiling = (False, True) if device.type == "cuda" or options.compile else (False,)
    lines = []
    print(f"{name}, {'SD3-medium' if full else 'toy width'}, {WIDTH} columns")
    print("dtype     compiled kind  rows batch images/s   step ms decode ms   of bound")
    for dtype in dtypes:
        rate = matmul_rate(device, dtype)
        bounds: dict[tuple[str, int, int], float] = {}
        for compiled in compiling:
            base = random_base(sizes, device, dtype, compiled)
            for rows in options.rows or sizes["rows"]:
                for kind in ("draw", "train"):
                    for count in options.batches or sizes["batches"]:
                        line = measure(base, sizes, rows, count, kind, rate)
                        if line is None:
                            break
                        key = (kind, rows, count)
                        line["bound_s"] = bounds.setdefault(key, line["bound_s"])
                        line |= {
                            "dtype": str(dtype).removeprefix("torch."),
                            "compiled": compiled,
                            "of_bound": line["bound_s"] / line["seconds"],
                            "matmul_tflops": rate / 1e12,
                        }
                        lines.append(line)
                        print(
                            f"{line['dtype']:9} {compiled!s:8} {kind:5} {rows:4} {count:5} "
                            f"{line['images_per_s']:8.2f} {1000 * line['step_s']:9.1f} "
                            f"{1000 * line.get('decode_s', 0):9.1f} {line['of_bound']:10.2f}",
                            flush=True,
                        )
    OUT.mkdir(exist_ok=True)
    report = {"device": name, "full": full, "torch": torch.__version__, "lines": lines}
    (OUT / "diffusion.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
