"""JSON as text: changed where its value changes, and left to the letter elsewhere: indentation, order, comments.

Laws: what is read from the outcome is the value that was asked for; with the value that it has already, the text stays as it is;
what is put in and taken out again leaves the text as it was, but for containers that were empty.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
MAX_EDITS: Final = 500
"""One by one; our entries are a dozen. What takes more is written anew."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INDENT: Final = re.compile(r"\n([ \t]+)\S")
_decoder: Final = json.JSONDecoder()


@dataclass
class _Node:
    """A value: where it is in the text, and what is in it."""

    start: int
    end: int
    value: Json
    inside: list[tuple[str | None, int, _Node]] = field(default_factory=list)
    """Key (None in a list), where that or the item begins, value."""


def read(text: str, *, comments: bool = False) -> Json:
    """The value.

    Args:
        comments: may be in it, as some agents allow.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return _scan(text, comments).value if comments else json.loads(text)


def edited(text: str, value: Json, *, comments: bool = False) -> str:
    """The text changed so that it holds `value`.

    Raises:
        ValueError: it is no JSON, or has comments and may not.
    """
    for _ in range(MAX_EDITS):
        changed = _step(text, _scan(text, comments), value, comments)
        if changed is None:
            return text
        text = changed
    return written(value)


def written(value: Json, indent: str = "  ") -> str:
    """As agents write their own: indented, readable."""
    return _dumped(value, indent) + "\n"


def _dumped(value: Json, indent: str | None) -> str:
    made = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        made.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape and UTF-8 has not
        made = json.dumps(value, indent=indent)
    return made


# --- reading --------------------------------------------------------------------------------------------------------------


def _scan(text: str, comments: bool) -> _Node:
    node = _value(text, _skip(text, 0, comments), comments)
    if _skip(text, node.end, comments) != len(text):
        raise json.JSONDecodeError("Extra data", text, node.end)
    return node


def _skip(text: str, at: int, comments: bool) -> int:
    """Behind blanks and comments."""
    while True:
        at = _blank(text, at)
        found = _COMMENT.match(text, at) if comments else None
        if found is None:
            return at
        at = found.end()


def _blank(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, comments: bool) -> _Node:
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        value, end = _decoder.raw_decode(text, at)
        return _Node(at, end, value)
    node = _Node(at, at, {} if opening == "{" else [])
    closing = "}" if opening == "{" else "]"
    at = _skip(text, at + 1, comments)
    while text[at : at + 1] != closing:
        if node.inside:
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError(f"Expecting ',' or '{closing}'", text, at)
            at = _skip(text, at + 1, comments)
        begin, key = at, None
        if opening == "{":
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
            key, at = _decoder.raw_decode(text, at)
            at = _skip(text, at, comments)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':'", text, at)
            at = _skip(text, at + 1, comments)
        inner = _value(text, at, comments)
        node.inside.append((key, begin, inner))
        if key is None:
            node.value.append(inner.value)
        else:
            node.value[key] = inner.value
        at = _skip(text, inner.end, comments)
    node.end = at + 1
    return node


# --- changing -------------------------------------------------------------------------------------------------------------


def _step(text: str, node: _Node, value: Json, comments: bool) -> str | None:
    """The text with one difference less; None: there is none."""
    if _same(node.value, value):
        return None
    if isinstance(node.value, dict) and isinstance(value, dict):
        for number, (key, _, inner) in enumerate(node.inside):
            if key not in value:
                return _without(text, node, number, comments)
            changed = _step(text, inner, value[key], comments)
            if changed is not None:
                return changed
        key = next(key for key in value if key not in node.value)
        return _with(text, node, f"{json.dumps(key, ensure_ascii=False)}: ", value[key], comments)
    if isinstance(node.value, list) and isinstance(value, list):
        for number, (_, _, inner) in enumerate(node.inside):
            if number >= len(value) or not _same(inner.value, value[number]):
                return _without(text, node, number, comments)
        return _with(text, node, "", value[len(node.inside)], comments)
    return text[: node.start] + _dumped(value, None) + text[node.end :]


def _same(one: Json, other: Json) -> bool:
    """Also where Python takes things for equal (1, 1.0 and true) or for different (NaN)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return _dumped(one, None) == _dumped(other, None)


def _with(text: str, node: _Node, key: str, value: Json, comments: bool) -> str:
    """With a member or an item more, the last one."""
    unit = _unit(text)
    if not node.inside:
        outer = _line_indent(text, node.start)
        made = _indented(value, unit, outer + unit)
        return f"{text[: node.start + 1]}\n{outer}{unit}{key}{made}\n{outer}{text[node.end - 1 :]}"
    _, begin, last = node.inside[-1]
    at = _trivia_end(text, last.end, node.end - 1, comments)
    if "\n" not in text[node.start : begin]:  # all in one line
        return f"{text[: last.end]}, {key}{_dumped(value, None)}{text[last.end :]}"
    indent = _line_indent(text, begin)
    return f"{text[: last.end]},{text[last.end : at]}\n{indent}{key}{_indented(value, unit, indent)}{text[at:]}"


def _without(text: str, node: _Node, number: int, comments: bool) -> str:
    """Without a member or an item."""
    _, begin, inner = node.inside[number]
    if number > 0:
        before = node.inside[number - 1][2].end
        comma = _skip(text, before, comments)
        kept = _trivia_end(text, comma + 1, begin, comments)  # comments behind the one before are its own
        if number + 1 < len(node.inside):
            after = _skip(text, inner.end, comments)
            return text[:kept] + text[inner.end : after] + text[after + 1 :]
        return text[:comma] + text[comma + 1 : kept] + text[inner.end :]
    if len(node.inside) > 1:
        comma = _skip(text, inner.end, comments)
        return text[:begin] + text[_blank(text, comma + 1) :]
    if not text[node.start + 1 : begin].strip() and not text[inner.end : node.end - 1].strip():
        return text[: node.start + 1] + text[node.end - 1 :]
    return text[:begin] + text[inner.end :]


def _trivia_end(text: str, at: int, stop: int, comments: bool) -> int:
    """Behind the last comment between the two; `at` if there is none."""
    end = at
    while comments and (found := _COMMENT.match(text, _blank(text, at), stop)):
        end = at = found.end()
    return end


def _indented(value: Json, unit: str, indent: str) -> str:
    return _dumped(value, unit).replace("\n", f"\n{indent}")


def _unit(text: str) -> str:
    found = _INDENT.search(text)
    return found[1] if found else "  "


def _line_indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]
