"""Offsets, flag bits and protocol numbers stand in `header_bytes` alone."""

import ast
from pathlib import Path

import pytest

from netdiff_ray import header_bytes

PACKAGE = Path(header_bytes.__file__).parent
EXEMPT = {"header_bytes.py", "compliance"}  # compliance shares no code with what it checks
HEADERS = {"network", "transport", "flags"}
BYTES = {"header", "octets"}
PROTOCOLS = {"protocol", "row_protocol", "next_header"}
NUMBERS = {
    header_bytes.IPPROTO_ICMP, header_bytes.IPPROTO_TCP, header_bytes.IPPROTO_UDP,
    header_bytes.IPPROTO_ICMPV6,
}  # fmt: skip
ICMP_TYPES = {
    number
    for name, number in vars(header_bytes).items()
    if name.startswith(("ICMP_", "ICMPV6_")) and type(number) is int and number > 2
}
"""Without the smallest, which other kinds are numbered by too."""


def name_of(node):
    """Return the last name in an expression: of `a.b`, `a["b"]`, `b[i]` and `b` it is b."""
    while isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value
        node = node.value
    return getattr(node, "attr", getattr(node, "id", None))


def is_number(node):
    return isinstance(node, ast.Constant) and type(node.value) is int


def numbers_in(node):
    """Return the integers that an expression compares with."""
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {element.value for element in elements if is_number(element)}


def literals_in(source):
    """Yield (line, expression) of each literal offset, protocol number and flag bit."""
    for node in ast.walk(ast.parse(source)):
        wrong = False
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Tuple)
            and node.slice.elts
        ):
            at = node.slice.elts[-1]
            bounds = [at.lower, at.upper] if isinstance(at, ast.Slice) else [at]
            wrong = name_of(node.value) in HEADERS and any(map(is_number, bounds))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper)
            wrong = name_of(node.value) in HEADERS | BYTES and all(map(is_number, bounds))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            numbers = set().union(*map(numbers_in, sides))
            names = {name_of(side) for side in sides}
            wrong = bool(names & PROTOCOLS and numbers & NUMBERS)
            wrong |= bool("kind" in names and numbers & ICMP_TYPES)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
            sides = (node.left, node.right)
            wrong = any(name_of(side) == "flags" for side in sides) and any(map(is_number, sides))
            wrong &= not any(is_number(side) and side.value == 255 for side in sides)
        if wrong:
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in EXEMPT],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_no_literals_elsewhere(path):
    assert not list(literals_in(path.read_text()))


@pytest.mark.parametrize(
    "code",
    [
        'rows["network"][:, 8]', "network[i, 0] = 0x45", 'rows["transport"][:, 20:22]',
        "transport[i, 13]", "flows.protocol[f] == 6", "protocol in (6, 17)", "6 == row.protocol",
        'rows["protocol"] == 17', "next_header != 58", "flags & 0x05", "2 & rows.flags",
        "133 <= kind <= 137", "kind in (8, 0)", "header[12:20]",
    ],
)  # fmt: skip
def test_a_literal_is_noticed(code):
    assert len(list(literals_in(code))) == 1


@pytest.mark.parametrize(
    "code",
    ["network[i, IPV4_TTL]", "version[f] == 4", "protocol == IPPROTO_TCP", "flags & (SYN | RST)",
     "transport[i, TCP_OPT + 2]", "counts[i, 8]", "word & 0xFF", "kind == ICMP_ECHO", "kind == 0"],
)  # fmt: skip
def test_names_are_fine(code):
    assert not list(literals_in(code))


def test_offsets_are_those_of_the_rfcs():
    assert (header_bytes.IPV4_TTL, header_bytes.IPV6_HL, header_bytes.TCP_FLAGS) == (8, 7, 13)
    assert (header_bytes.TCP_OPT, header_bytes.UDP_LEN, header_bytes.ICMP_ROH) == (20, 4, 4)
    assert header_bytes.IPV4_VER_HL == 0x45
