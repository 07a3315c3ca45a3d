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
from netdiff_ray.storage.store import open_store, public_uri

_FRESH_S = 2.0


@dataclass(frozen=True, kw_only=True)
class OfferedAdapter:
    """An adapter that the configuration names, or that lies in a folder that it names."""

    name: str
    uri: str
    digest: str = ""
    """See `adapter_digest`."""
    metadata: AdapterMetadata | None = None
    """None if it cannot be used."""
    reason: str = ""
    """Why it cannot be used."""


class Catalogue:
    """Lists adapters, and lists them anew when the last listing is some seconds old.

    Args:
        sources: paths and URIs of adapters, or of folders of them.
    """

    def __init__(self, sources: Sequence[str]):
        self._sources = tuple(sources)
        self._adapters: dict[str, OfferedAdapter] = {}
        self._signatures: dict[str, object] = {}
        self._listed_at = -_FRESH_S
        self._lock = threading.Lock()

    def adapters(self) -> dict[str, OfferedAdapter]:
        """Return all adapters, by name; of several with the same name, the first."""
        with self._lock:
            if time.monotonic() - self._listed_at >= _FRESH_S:
                adapters: dict[str, OfferedAdapter] = {}
                for source in self._sources:
                    for adapter in self._list(source):
                        adapters.setdefault(adapter.name, adapter)
                self._adapters = adapters
                self._listed_at = time.monotonic()
            return self._adapters

    def _list(self, source: str) -> Iterator[OfferedAdapter]:
        """Yield the adapter that a source is, or those in it."""
        path, mark, query = source.partition("?")
        name = path.rstrip("/").rpartition("/")[2] or source
        try:
            sizes = open_store(source).sizes()
        except NetdiffError as error:
            yield OfferedAdapter(name=name, uri=source, reason=str(error))
            return
        if METADATA_FILE in sizes:
            yield self._adapter(name, source, sizes)
            return
        tail = f"/{METADATA_FILE}"
        folders = [n.removesuffix(tail) for n in sorted(sizes) if n.endswith(tail)]
        folders = [n for n in folders if "/" not in n]
        for folder in folders:
            sizes_in_folder = {
                n.removeprefix(f"{folder}/"): size
                for n, size in sizes.items()
                if n.startswith(f"{folder}/")
            }
            uri = f"{path.rstrip('/')}/{folder}{mark}{query}"
            yield self._adapter(folder, uri, sizes_in_folder)
        if not folders:
            reason = f"{public_uri(source)}: neither an adapter nor a folder of adapters is there"
            yield OfferedAdapter(name=name, uri=source, reason=reason)

    def _adapter(self, name: str, uri: str, sizes: dict[str, int]) -> OfferedAdapter:
        """Return the adapter at a URI, read again only if its files have changed."""
        try:
            store = open_store(uri)
            content = store.get(METADATA_FILE)
            signature = (uri, content, [(n, sizes[n]) for n in adapter_names(sizes)])
            before = self._adapters.get(name)
            if before and before.metadata and self._signatures.get(name) == signature:
                return before
            metadata = parse_metadata(content, store.uri)
            digest = adapter_digest(read_adapter_files(store))
        except NetdiffError as error:
            return OfferedAdapter(name=name, uri=uri, reason=str(error))
        self._signatures[name] = signature
        return OfferedAdapter(name=name, uri=uri, metadata=metadata, digest=digest)
