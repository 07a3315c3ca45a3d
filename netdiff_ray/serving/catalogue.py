"""The adapters that an endpoint offers, as they come and go."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netdiff_ray.diffusion.adapter import (
    METADATA_FILE,
    adapter_digest,
    adapter_names,
    parse_metadata,
)
from netdiff_ray.errors import NetdiffError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.storage.store import open_store

_FRESH_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Known:
    """An adapter that was named, or found in a folder that was."""

    name: str
    uri: str
    digest: str = ""
    """See `adapter_digest`."""
    facts: AdapterMetadata | None = None
    """None if it cannot be used."""
    reason: str = ""
    """Why it cannot be used."""


class Catalogue:
    """Looks for adapters at places, again when the last look is some seconds old.

    Args:
        sources: paths and URIs of adapters, or of folders of them.
    """

    def __init__(self, sources: Sequence[str]):
        self._sources = tuple(sources)
        self._known: dict[str, Known] = {}
        self._signatures: dict[str, object] = {}
        self._looked = -_FRESH_S
        self._lock = threading.Lock()

    def adapters(self) -> dict[str, Known]:
        """All adapters, by name; the first of several of one name."""
        with self._lock:
            if time.monotonic() - self._looked >= _FRESH_S:
                found: dict[str, Known] = {}
                for source in self._sources:
                    for known in self._look(source):
                        found.setdefault(known.name, known)
                self._known = found
                self._looked = time.monotonic()
            return self._known

    def _look(self, source: str) -> Iterator[Known]:
        name = source.partition("?")[0].rstrip("/").rpartition("/")[2] or source
        try:
            sizes = open_store(source).sizes()
        except NetdiffError as error:
            yield Known(name=name, uri=source, reason=str(error))
            return
        if METADATA_FILE in sizes:
            yield self._adapter(name, source, sizes)
            return
        tail = f"/{METADATA_FILE}"
        inner = [n.removesuffix(tail) for n in sorted(sizes) if n.endswith(tail)]
        inner = [n for n in inner if "/" not in n]
        for folder in inner:
            own = {
                n.removeprefix(f"{folder}/"): size
                for n, size in sizes.items()
                if n.startswith(f"{folder}/")
            }
            path, mark, query = source.partition("?")
            yield self._adapter(folder, f"{path.rstrip('/')}/{folder}{mark}{query}", own)
        if not inner:
            reason = f"{source}: neither an adapter nor a folder of adapters is there"
            yield Known(name=name, uri=source, reason=reason)

    def _adapter(self, name: str, uri: str, sizes: dict[str, int]) -> Known:
        try:
            store = open_store(uri)
            content = store.get(METADATA_FILE)
            signature = (uri, content, [(n, sizes[n]) for n in adapter_names(sizes)])
            before = self._known.get(name)
            if before and before.facts and self._signatures.get(name) == signature:
                return before
            facts = parse_metadata(content, uri)
            digest = adapter_digest(read_adapter_files(store))
        except NetdiffError as error:
            return Known(name=name, uri=uri, reason=str(error))
        self._signatures[name] = signature
        return Known(name=name, uri=uri, facts=facts, digest=digest)
