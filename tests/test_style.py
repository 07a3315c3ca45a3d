"""Docstrings read as sentences that a colleague would say."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for folder in ("netdiff_ray", "tests", "benchmarks", "samples", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
NOT_VERBS = frozenset(
    """a an the this that these those what which who whose whether how where when why nothing all
    each every some any no one two of if in as for from with to by on at its their about both it
    further address command content header session uri url""".split()  # noqa: SIM905
)
"""First words of a docstring that describes a function instead of saying what it does."""


def functions_of(tree):
    """Yield functions and methods but properties and tests, with their docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            is_property = any(name.endswith("property") for name in decorators)
            is_test = node.name.startswith("test_")
            if not (is_property or is_test) and (text := ast.get_docstring(node)):
                yield node, text


def begins_with_a_verb(text):
    """Return whether the first word of a docstring can be an imperative verb: not one of NOT_VERBS,
    and no plural or third person."""
    first = text.split(maxsplit=1)[0].rstrip(",.:;")
    is_word = first.isalpha() and first[0].isupper() and first.lower() not in NOT_VERBS
    return is_word and (not first.endswith("s") or first.endswith("ss"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_of_functions_begin_with_a_verb(path):
    wrong = [
        f"{path.name}:{node.lineno}: {text.splitlines()[0]}"
        for node, text in functions_of(ast.parse(path.read_text()))
        if not begins_with_a_verb(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_no_verb():
    assert begins_with_a_verb("Return the flows of a shard.")
    assert not begins_with_a_verb("Nothing; applications are being started.")
    assert not begins_with_a_verb("`metadata` as JSON types.")
    assert not begins_with_a_verb("Flows of a shard.")
    assert not begins_with_a_verb("Returns the flows of a shard.")
    assert begins_with_a_verb("Process the flows of a shard.")
