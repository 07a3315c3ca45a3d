"""Weight files as they lie in model directories: which are loaded, and which cannot be.

Reads configs and the headers of safetensors files alone; loads neither torch nor diffusers. What
diffusers would load in part, or not as it is meant, is refused here, before memory or a GPU is
taken.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from netdiff_ray.errors import ModelError

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors"
)
"""Names that diffusers and transformers give to weights, with a variant before or after the number
of a shard."""
_SINGLE_FILES = (".safetensors", ".gguf", ".ckpt", ".sft")
_SCALES = re.compile(
    r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale)(_\w+)?$"
)
"""Tensors that fp8 weights have to be multiplied with, as ComfyUI and torchao name them."""
_PACKED = re.compile(r"\.(absmax|quant_map|quant_state\.\w+|nested_absmax)$")
"""Tensors beside weights that bitsandbytes has packed."""
_MOST_HEADER_BYTES = 100_000_000
"""Longer headers are refused by safetensors too."""


def variants_in(folder: Path) -> set[str]:
    """Return the variants of the weights in a component's folder, "" for plain ones."""
    names = (_WEIGHTS.fullmatch(path.name) for path in folder.glob("*.safetensors"))
    return {name[1] or name[2] or "" for name in names if name}


def variant_of(folder: Path, wanted: str | None) -> str | None:
    """Return the variant of a component to load, None for plain weights.

    The wanted one if the component has it, else plain weights, else the only one, as diffusers'
    pipelines do but for the last.

    Raises:
        ModelError: the component has several variants and neither plain weights nor the wanted.
    """
    variants = variants_in(folder)
    if wanted in variants:
        return wanted
    if "" in variants or not variants:
        return None
    if len(variants) == 1:
        return variants.pop()
    raise ModelError(
        f"{folder} has its weights as the variants {', '.join(sorted(variants))} only; set variant "
        "to one of them"
    )


def weights_in(folder: Path, wanted: str | None = None) -> list[Path]:
    """Return the weight files of a component that are loaded, sorted; see `variant_of`."""
    variant = variant_of(folder, wanted) or ""
    names = ((path, _WEIGHTS.fullmatch(path.name)) for path in folder.glob("*.safetensors"))
    return sorted(path for path, m in names if m and (m[1] or m[2] or "") == variant)


def tensors_in(file: Path) -> dict[str, str]:
    """Return the dtype of each tensor in a safetensors file, as its header has it (such as F16).

    Empty if the header cannot be read: loading says why. The format: an 8-byte little-endian length
    and that many bytes of JSON (github.com/huggingface/safetensors).
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MOST_HEADER_BYTES)))
        return {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def config_in(folder: Path) -> dict:
    """Return the config of the component in a folder; empty if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def refuse_single_file(source: str) -> None:
    """Raise ModelError if a base is a single file instead of a directory."""
    if source.lower().endswith(_SINGLE_FILES):
        raise ModelError(
            f"{source} is a single file, which lacks the scheduler, tokenizers and mostly the text "
            "encoders: give the diffusers directory or hub name of its model as base, and the file "
            "as transformer_file"
        )


def check_component(folder: Path, wanted: str | None = None) -> None:
    """Raise ModelError if the weights in a component's folder would not be loaded as they are
    meant: they are quantised, or only of a form that is not read.

    Args:
        folder: of a component; a missing one is passed over.
        wanted: variant, see `variant_of`.
    """
    quantised = config_in(folder).get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method", "an unknown method")
        bits = next((b for b in (4, 8) if quantised.get(f"load_in_{b}bit")), None)
        raise _quantised(folder, f"{method}, {bits} bit" if bits else str(method))
    files = weights_in(folder, wanted)
    for file in files:
        check_tensors(file)
    others = [path.name for path in folder.glob("*.gguf")]
    if others and not files:
        raise _quantised(folder, f"GGUF, {others[0]}")


def check_tensors(file: Path) -> None:
    """Raise ModelError if a safetensors file has fp8 weights with scales, or packed weights."""
    tensors = tensors_in(file)
    scale = next((name for name in tensors if _SCALES.search(name)), None)
    if scale is not None:
        raise ModelError(
            f"{file} has fp8 weights that have to be multiplied with scales (such as {scale}), "
            "which diffusers does not do: without them every weight is wrong. Use the file or "
            "directory of bfloat16 or float16 weights"
        )
    packed = next((name for name in tensors if _PACKED.search(name)), None)
    if packed is not None:
        raise _quantised(file, f"bitsandbytes; it has {packed}")


def check_transformer_file(file: Path) -> None:
    """Raise ModelError unless a single file has weights of a transformer that can be loaded."""
    if not file.is_file():
        raise ModelError(f"transformer_file {file}: no such file")
    if file.suffix == ".gguf":
        raise _quantised(file, "GGUF")
    if file.suffix not in (".safetensors", ".sft"):
        raise ModelError(f"transformer_file {file}: give a .safetensors file")
    check_tensors(file)


def _quantised(where: Path, how: str) -> ModelError:
    return ModelError(
        f"{where} is quantised ({how}): LoRA cannot be merged into such weights without loss. Use "
        "weights of bfloat16, float16 or float32"
    )


def check_text_encoders(directory: Path, source: str, *, with_t5: bool = True) -> None:
    """Raise ModelError if a base has a text encoder without its tokenizer."""
    for number in ("", "_2", *["_3"] * with_t5):
        encoder, tokenizer = f"text_encoder{number}", f"tokenizer{number}"
        if (directory / encoder).is_dir() and not (directory / tokenizer).is_dir():
            without = ", or set t5 to none to go without T5" if number == "_3" else ""
            raise ModelError(
                f"{source} has {encoder} and no {tokenizer}, without which it reads no prompts; "
                f"add the folder from the complete model{without}"
            )


def check_lora_names(names: Iterable[str], source: str) -> None:
    """Raise ModelError if diffusers would not load a LoRA's tensors as they are meant, or load
    some of them only.

    Args:
        names: of the tensors.
        source: of the LoRA, for the message.
    """
    names = list(names)
    if any(name.startswith(("lora_unet_", "lora_te", "lora_transformer_")) for name in names):
        raise ModelError(
            f"{source}: its tensors have the names of kohya's sd-scripts (lora_unet_...), which "
            "diffusers does not read for SD3; convert it to diffusers' names (transformer.*.lora_A)"
        )
    if any("dora_scale" in name for name in names):
        raise ModelError(
            f"{source} is a DoRA, whose magnitudes diffusers leaves out for SD3; use a plain LoRA"
        )
    if not any(name.startswith("transformer.") for name in names):
        some = f" (its tensors are called {names[0]} and so on)" if names else ""
        raise ModelError(f"{source} holds no LoRA weights of an SD3 transformer{some}")
