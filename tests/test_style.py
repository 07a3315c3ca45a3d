"""Docstrings read as sentences that a colleague would say."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "netdiff_ray"
NOT_VERBS = frozenset(
    """a an the this that these those what which who whose whether how where when why nothing all
    each every some any no one two of if in as for from with to by on at its their windows columns
    flows rows""".split()  # noqa: SIM905
)
"""First words of a docstring that describes a function instead of saying what it does."""


def functions_of(tree):
    """Yield functions and methods but properties, with their docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            is_property = any(name.endswith("property") for name in decorators)
            if not is_property and (text := ast.get_docstring(node)):
                yield node, text


def begins_with_a_verb(text):
    """Return whether the first word of a docstring can be an imperative verb."""
    first = text.split(maxsplit=1)[0].rstrip(",.:;")
    return first.isalpha() and first[0].isupper() and first.lower() not in NOT_VERBS


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
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
    assert not begins_with_a_verb("`facts` as JSON types.")
