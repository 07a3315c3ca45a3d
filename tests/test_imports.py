"""Rooms import one way, and the package itself loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "netdiff_ray"
ROOMS = (  # each may import itself and what stands on lines before its own
    ("errors", "fields", "progress"),
    ("header_bytes",),
    ("dialogue",),
    ("packets",),
    ("flow_keys",),
    ("flow_state",),
    ("flow_table",),
    ("flows",),
    ("nprint",),
    ("raster",),
    ("config",),
    ("labels",),
    ("repair",),
    ("scenes",),
    ("diffusion",),
    ("pretraining",),
    ("storage",),
    ("flow_labels",),
    ("encoding",),
    ("generation",),
    ("compliance",),
    ("evaluate",),
    ("serving",),
    ("local",),
    ("distributed",),
    ("datasets",),
    ("export",),
    ("pipeline", "scene_job"),
    ("augmentation",),
    ("cli",),
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}


def imports_of(path):
    """Yield the modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (n.split(".") for n in names if n.split(".")[0] == "netdiff_ray")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_rooms_import_downwards(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0]
    if room == "__init__":
        return
    for module in imports_of(path):
        other = module[1] if len(module) > 1 else None
        if other in (None, room):
            continue
        assert RANKS[other] < RANKS[room], f"{room} imports {other}"


@pytest.mark.parametrize(
    "module",
    ["netdiff_ray", "netdiff_ray.cli", "netdiff_ray.raster", "netdiff_ray.distributed.metrics"],
)
def test_importing_loads_neither_ray_nor_torch(module):
    code = f"import sys, {module}; print([m for m in ('ray', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
