"""Read and write adapter directories; loads neither torch nor diffusers.

pytorch_lora_weights.safetensors   as diffusers' load_lora_weights takes them
prompts.safetensors                (T, D) and (E,) float16 embeddings of each prompt
decoder.safetensors                the decoder that draws with it, if one was tuned (`check-base`)
adapter.json                       the metadata, written last
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from netdiff_ray.errors import ModelError
from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    metadata_from_json,
    metadata_to_json,
    service_statistics,
)
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.statistics import services_of

LORA_FILE = "pytorch_lora_weights.safetensors"
METADATA_FILE = "adapter.json"
DECODER_FILE = "decoder.safetensors"
_PROMPTS_FILE = "prompts.safetensors"


@dataclass(frozen=True)
class Embeddings:
    """Text embeddings; prompts are keyed by (service of a label, window number from 0)."""

    prompt: dict[tuple[LabelService, int], np.ndarray]
    """(T, D) float16 each."""
    pooled: dict[tuple[LabelService, int], np.ndarray]
    """(E,) float16 each."""
    empty_prompt: np.ndarray
    """(T, D) float16 of the empty text, for guidance and prompt dropout."""
    empty_pooled: np.ndarray
    """(E,) float16 of it."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory, without its LoRA weights."""

    directory: Path
    """Holds the LoRA weights."""
    metadata: AdapterMetadata
    """From adapter.json."""
    embeddings: Embeddings
    """Of all its prompts."""
    unpacked: tempfile.TemporaryDirectory | None = None
    """Keeps `directory` for as long as the adapter is in memory (see `unpack_adapter`)."""

    def embedding(self, service: LabelService, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the (T, D) and (E,) float16 embeddings for a window of a label's service.

        Raises:
            ConfigError: the adapter does not know the service.
        """
        statistics = service_statistics(self.metadata, *service)
        key = (service, min(window, statistics.num_prompts - 1))
        return self.embeddings.prompt[key], self.embeddings.pooled[key]


def _tensor_names(service: LabelService, window: int) -> tuple[str, str]:
    """Return the names of a prompt's two embeddings in the prompts file."""
    name = f"{service.service}/{service.label}"
    return f"{window}/prompt/{name}", f"{window}/pooled/{name}"


def write_adapter(directory: Path, metadata: AdapterMetadata, embeddings: Embeddings) -> None:
    """Complete an adapter directory that holds LORA_FILE.

    Args:
        directory: of the adapter.
        metadata: becomes adapter.json.
        embeddings: of each prompt of each service.
    """
    assert (directory / LORA_FILE).is_file()
    tensors = {"empty/prompt": embeddings.empty_prompt, "empty/pooled": embeddings.empty_pooled}
    for (service, window), prompt in embeddings.prompt.items():
        prompt_name, pooled_name = _tensor_names(service, window)
        tensors[prompt_name] = prompt
        tensors[pooled_name] = embeddings.pooled[service, window]
    save_file(tensors, directory / _PROMPTS_FILE)
    partial = directory / f"{METADATA_FILE}.partial"
    partial.write_text(metadata_text(metadata), encoding="utf-8")
    partial.replace(directory / METADATA_FILE)


def metadata_text(metadata: AdapterMetadata) -> str:
    """Return the text of an adapter.json."""
    return json.dumps(metadata_to_json(metadata), indent=1, ensure_ascii=False) + "\n"


def read_metadata(directory: Path) -> AdapterMetadata:
    """Return the metadata of the adapter in `directory`.

    Raises:
        ModelError: adapter.json is missing or unreadable.
    """
    path = Path(directory) / METADATA_FILE
    try:
        content = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return parse_metadata(content, str(directory))


def parse_metadata(content: bytes | None, where: str) -> AdapterMetadata:
    """Parse the content of an adapter.json.

    Args:
        content: None if the file does not exist.
        where: the adapter, as the user named it.

    Raises:
        ModelError: adapter.json is missing or unreadable.
    """
    path = f"{where}/{METADATA_FILE}"
    if content is None:
        raise ModelError(
            f"{path} is missing: {where} is not an adapter, or its training did not end; "
            "run the same training again to finish it"
        )
    return metadata_from_json(content, path)


def adapter_names(names: Iterable[str]) -> list[str]:
    """Select the files that make up an adapter from those in its directory, sorted."""
    return sorted({METADATA_FILE, LORA_FILE, _PROMPTS_FILE, DECODER_FILE}.intersection(names))


def adapter_digest(files: Mapping[str, bytes]) -> str:
    """Return the hex sha256 of an adapter's files, which identifies the adapter.

    Args:
        files: content by name; files that `adapter_names` leaves out do not count.
    """
    total = hashlib.sha256()
    for name in adapter_names(files):
        total.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def unpack_adapter(files: Mapping[str, bytes]) -> Adapter:
    """Write an adapter's files to a temporary folder, and return the adapter.

    The folder is deleted with the adapter.

    Args:
        files: content by name, such as `adapter_names` lists.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    folder = tempfile.TemporaryDirectory()
    for name, content in files.items():
        path = Path(folder.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return replace(read_adapter(Path(folder.name)), unpacked=folder)


def read_adapter(directory: Path) -> Adapter:
    """Read the adapter in `directory`.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    directory = Path(directory)
    metadata = read_metadata(directory)
    if not (directory / LORA_FILE).is_file():
        raise ModelError(f"{directory} has no {LORA_FILE}, the weights of the adapter")
    path = directory / _PROMPTS_FILE
    try:
        tensors = load_file(path)
        prompt, pooled = {}, {}
        for service, statistics in services_of(metadata.labels).items():
            for window in range(statistics.num_prompts):
                prompt_name, pooled_name = _tensor_names(service, window)
                prompt[service, window] = tensors[prompt_name]
                pooled[service, window] = tensors[pooled_name]
        embeddings = Embeddings(prompt, pooled, tensors["empty/prompt"], tensors["empty/pooled"])
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} lacks prompt embeddings of the adapter: {error}") from None
    return Adapter(directory, metadata, embeddings)


def check_base(metadata: AdapterMetadata, digest: str, name: str) -> None:
    """Raise ModelError unless the adapter was trained on the base with that digest.

    Args:
        metadata: of the adapter.
        digest: of the base, see `Base.digest`.
        name: of the base, for the message.
    """
    if metadata.base_digest != digest:
        commit = f" at {metadata.revision}" if metadata.revision else ""
        raise ModelError(
            f"the adapter was trained on {metadata.base}{commit} "
            f"(sha256 {metadata.base_digest[:12]}), not on {name} (sha256 {digest[:12]}); use that "
            "base, or train an adapter for this one"
        )
