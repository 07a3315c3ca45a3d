"""The adapter directory, written and read.

    pytorch_lora_weights.safetensors   as diffusers' load_lora_weights takes them
    prompts.safetensors                (T, D) and (E,) float16 embeddings a prompt
    control/<label>/<height>.png       control images
    adapter.json                       the facts; written last

Neither torch nor diffusers is loaded by reading.
"""

import hashlib
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from netdiff_ray.errors import ModelError
from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    metadata_from_json,
    metadata_to_json,
)

LORA_FILE = "pytorch_lora_weights.safetensors"
METADATA_FILE = "adapter.json"
_PROMPTS_FILE = "prompts.safetensors"
_CONTROL_FOLDER = "control"


@dataclass(frozen=True)
class Embeddings:
    """Text embeddings; prompts are keyed by (label, window number from 0)."""

    prompt: dict[tuple[str, int], np.ndarray]
    """(T, D) float16 each."""
    pooled: dict[tuple[str, int], np.ndarray]
    """(E,) float16 each."""
    empty_prompt: np.ndarray
    """(T, D) float16 of the empty text, for guidance and prompt dropout."""
    empty_pooled: np.ndarray
    """(E,) float16 of it."""


@dataclass(frozen=True)
class Adapter:
    """An adapter directory in memory, but for its LoRA weights."""

    directory: Path
    """Where it lies."""
    facts: AdapterMetadata
    """Its adapter.json."""
    embeddings: Embeddings
    """Of all its prompts."""

    def embedding(self, label: str, window: int) -> tuple[np.ndarray, np.ndarray]:
        """(T, D) and (E,) float16 for a window of a label.

        Raises:
            ModelError: the adapter does not know the label.
        """
        key = (label, min(window, label_statistics(self.facts, label).num_prompts - 1))
        return self.embeddings.prompt[key], self.embeddings.pooled[key]

    def control_image(self, label: str, height: int) -> np.ndarray:
        """(H, W, 3) uint8 edges of the label's mean raster.

        Raises:
            ModelError: the adapter has none of that label and height, or it is unreadable.
        """
        path = _control_path(self.directory, label, height)
        try:
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ModelError(
                f"{path} is no readable control image ({error}); the adapter has heights "
                f"{self.facts.control_heights}, or set control_scale to 0"
            ) from None


def _control_path(directory: Path, label: str, height: int) -> Path:
    return directory / _CONTROL_FOLDER / urllib.parse.quote(label, safe="") / f"{height}.png"


def write_adapter(
    directory: Path,
    facts: AdapterMetadata,
    embeddings: Embeddings,
    controls: dict[str, dict[int, np.ndarray]],
) -> None:
    """Nothing; puts everything but the LoRA weights, which must be there, into `directory`.

    Args:
        directory: holds LORA_FILE.
        facts: what goes into adapter.json.
        embeddings: for each prompt of each label.
        controls: label to height to (H, W, 3) uint8.
    """
    assert (directory / LORA_FILE).is_file()
    tensors = {"empty/prompt": embeddings.empty_prompt, "empty/pooled": embeddings.empty_pooled}
    for (label, window), prompt in embeddings.prompt.items():
        tensors[f"{window}/prompt/{label}"] = prompt
        tensors[f"{window}/pooled/{label}"] = embeddings.pooled[label, window]
    save_file(tensors, directory / _PROMPTS_FILE)
    for label, by_height in controls.items():
        for height, image in by_height.items():
            path = _control_path(directory, label, height)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("L").save(path)
    text = json.dumps(metadata_to_json(facts), indent=1, ensure_ascii=False)
    partial = directory / f"{METADATA_FILE}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(directory / METADATA_FILE)


def read_facts(directory: Path) -> AdapterMetadata:
    """The facts of an adapter.

    Raises:
        ModelError: there is no adapter.json, or it is unreadable.
    """
    path = Path(directory) / METADATA_FILE
    try:
        content = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return parse_metadata(content, str(directory))


def parse_metadata(content: bytes | None, where: str) -> AdapterMetadata:
    """The facts that an adapter.json holds.

    Args:
        content: of the file, None if there is none.
        where: the adapter, as its user named it.

    Raises:
        ModelError: there is no adapter.json, or it is unreadable.
    """
    path = f"{where}/{METADATA_FILE}"
    if content is None:
        raise ModelError(
            f"{path} is missing: {where} is no adapter, or its training did not end; "
            "run the same training again to finish it"
        )
    return metadata_from_json(content, path)


def adapter_names(names: Iterable[str]) -> list[str]:
    """Those of the files below an adapter's directory that belong to it, sorted."""
    own = (METADATA_FILE, LORA_FILE, _PROMPTS_FILE)
    return sorted(n for n in names if n in own or n.startswith(f"{_CONTROL_FOLDER}/"))


def adapter_digest(files: Mapping[str, bytes]) -> str:
    """Hex sha256 of an adapter's files, by name: what tells one adapter from another."""
    total = hashlib.sha256()
    for name in adapter_names(files):
        total.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def read_adapter(directory: Path) -> Adapter:
    """The adapter in `directory`.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    directory = Path(directory)
    facts = read_facts(directory)
    if not (directory / LORA_FILE).is_file():
        raise ModelError(f"{directory} has no {LORA_FILE}, the weights of the adapter")
    path = directory / _PROMPTS_FILE
    try:
        tensors = load_file(path)
        prompt, pooled = {}, {}
        for label, known in facts.labels.items():
            for window in range(known.num_prompts):
                prompt[label, window] = tensors[f"{window}/prompt/{label}"]
                pooled[label, window] = tensors[f"{window}/pooled/{label}"]
        embeddings = Embeddings(prompt, pooled, tensors["empty/prompt"], tensors["empty/pooled"])
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} lacks prompt embeddings of the adapter: {error}") from None
    return Adapter(directory, facts, embeddings)


def check_base(facts: AdapterMetadata, digest: str, name: str) -> None:
    """Nothing, if the adapter was trained on the base with that digest.

    Raises:
        ModelError: it was trained on another.
    """
    if facts.base_digest != digest:
        of = f" at {facts.revision}" if facts.revision else ""
        raise ModelError(
            f"the adapter was trained on {facts.base}{of} (sha256 {facts.base_digest[:12]}), not "
            f"on {name} (sha256 {digest[:12]}); use that base, or train an adapter for this one"
        )


def check_layout(facts: AdapterMetadata, layout: str) -> None:
    """Nothing, if the adapter draws rasters of `layout`.

    Raises:
        ModelError: it draws others.
    """
    if facts.layout != layout:
        raise ModelError(
            f"the adapter draws layout {facts.layout}, not {layout}; train one on windows encoded "
            f"with {layout}, or ask for {facts.layout}"
        )
