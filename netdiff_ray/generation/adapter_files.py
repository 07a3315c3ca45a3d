"""Read an adapter out of a store."""

from netdiff_ray.diffusion.adapter import adapter_names
from netdiff_ray.storage.store import Store


def read_adapter_files(store: Store) -> dict[str, bytes]:
    """Return the content of an adapter's files by name, to hand to workers wherever they run."""
    return {name: store.get(name) for name in adapter_names(store.sizes())}
