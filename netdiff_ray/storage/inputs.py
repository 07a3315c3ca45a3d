"""Which input each part of a dataset was made of, so that changed input is not passed over.

`_inputs.json` maps the name of each part to a digest of its input files' names, sizes and times
of writing. It is not in the parts themselves, whose bytes depend on the input's content alone.
"""

import hashlib
import json
from collections.abc import Mapping

from netdiff_ray.storage.manifest import MANIFESTS, missing_parts, stored_metadata
from netdiff_ray.storage.store import Store

INPUTS_FILE = "_inputs.json"


def input_digest(*files: object) -> str:
    """Return a SHA-256, in hex, of what identifies the input files of a part, as JSON."""
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def parts_to_write(store: Store, identity: dict, inputs: Mapping[str, str]) -> list[int]:
    """Return the positions of the parts that a run has to write.

    Parts that an earlier run made of other input, or of input that is gone, are removed, and
    with them the manifest, which does not describe the dataset any more.

    Args:
        identity: of the run, see `run_identity`.
        inputs: name of each part to the digest of its input, in order.

    Raises:
        ConfigError: the store holds another run; nothing is removed.
    """
    missing = missing_parts(store, identity, list(inputs))
    recorded = json.loads(store.get(INPUTS_FILE) or b"{}")
    existing = {*inputs, *recorded}.intersection(store.sizes())
    stale = {name for name in existing if recorded.get(name) != inputs.get(name)}
    for name in MANIFESTS.values() if stale else ():
        store.delete(name)
    for name in sorted(stale):
        _delete_part(store, name)
    if recorded != inputs:
        store.put(INPUTS_FILE, json.dumps(dict(inputs), indent=1).encode())
    return [
        position for position, name in enumerate(inputs) if position in missing or name in stale
    ]


def _delete_part(store: Store, name: str) -> None:
    """Delete a part and then the other files that it lists."""
    metadata = stored_metadata(store, name) or {"files": {}}
    store.delete(name)
    for file in metadata["files"]:
        store.delete(file)
