"""The documents: short where a newcomer begins, and true to the repository."""

import re
import shlex
from pathlib import Path

import pytest
from paths import ROOT

import netdiff_ray as nd
from netdiff_ray.cli import parsed

MOST_LINES = {"README.md": 120, "benchmarks/RESULTS.md": 120}
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("cluster", "samples", "netdiff_ray/nano")),
    ROOT / "benchmarks" / "RESULTS.md",
]
SCRIPTS = [ROOT / "Makefile", *(ROOT / "cluster").rglob("*.yaml")]
FOLDERS = "benchmarks|cluster|docs|jobs|netdiff_ray|notebooks|samples|tests"
MADE_BY_USERS = ("benchmarks/out",)
NAMED = {"COMMIT": "0" * 40, "$hash": "0" * 64}
"""Words of example commands, and values for them."""


def cited_paths(document: Path) -> set[Path]:
    """Return the paths of the repository that a document links to or names."""
    text = document.read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    paths = {document.parent / link for link in links if "://" not in link}
    names = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*<>-]*\w", text)
    named = {name for name in names if not re.search(r"[*<>]", name)}
    return paths | {ROOT / name for name in named if not name.startswith(MADE_BY_USERS)}


def commands(document: Path) -> list[str]:
    """Return the `netdiff` commands in a document's code blocks."""
    text = document.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"netdiff [a-z]+ ", line)]


def names_of(document: Path) -> set[str]:
    """Return the dotted names of the package that a document mentions."""
    return set(re.findall(r"`(netdiff_ray(?:[.:]\w+)+)`", document.read_text()))


def run_by(script: Path) -> set[str]:
    """Return the dotted names of the package that a build or deployment file imports."""
    text = script.read_text()
    imports = re.findall(r"\bfrom (netdiff_ray[\w.]*) import (\w+)", text)
    paths = re.findall(r"import_path: (netdiff_ray[\w.]*:\w+)", text)
    return {f"{module}.{name}" for module, name in imports} | set(paths)


def api_names(document: Path) -> set[str]:
    """Return the names of the Python API that a document, a notebook too, takes from `nd`."""
    return set(re.findall(r"\bnd\.(\w+)", document.read_text()))


def is_defined(name: str) -> bool:
    """Return whether a dotted name of the package is a definition of its module."""
    *folders, module, attribute = name.replace(":", ".").split(".")
    path = ROOT.joinpath(*folders, module)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    defined = rf"^(def|class) {attribute}\b|^{attribute}\b|^from .* import .*\b{attribute}\b"
    return re.search(defined, path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("name", MOST_LINES)
def test_it_is_short(name):
    assert len((ROOT / name).read_text().splitlines()) <= MOST_LINES[name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_it_cites_exists(document):
    assert not [str(path) for path in cited_paths(document) if not path.exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_it_cites_exists(document):
    assert not [name for name in names_of(document) if not is_defined(name)]


def test_every_name_that_builds_and_deployments_import_exists():
    names = set().union(*map(run_by, SCRIPTS))
    assert len(names) >= 2
    assert not [name for name in names if not is_defined(name)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_the_python_api_that_it_uses_exists(document):
    assert api_names(document) <= set(nd.__all__)


def test_the_document_of_the_python_api_has_its_jobs_configurations_and_errors():
    text = (ROOT / "docs" / "python.md").read_text()
    missing = [name for name in nd.__all__ if name not in text]
    assert not missing


def test_every_command_is_understood():
    lines = [line for document in DOCUMENTS for line in commands(document)]
    assert len(lines) > 20
    text = "\n".join(lines)
    for word, value in NAMED.items():
        text = text.replace(word, value)
    for line in text.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        parsed(arguments)
