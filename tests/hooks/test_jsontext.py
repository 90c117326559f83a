"""Settings files are changed as text: what is not ours stays to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks.jsontext import edited, read, written
from sudocode_coordination.hooks.servers import registrations
from sudocode_coordination.hooks.settings import integrations

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
INDENTS = st.sampled_from([None, 1, 2, 4, "\t"])

GEMINI = """\
// my notes
{
    "theme": "x", // dark
    "list": ["a", "b"], /* short */ "n": 1.10,
    "hooks": {
        "BeforeTool": [
            // mine
            { "hooks": [{ "command": "mine" }] } // stays
        ]
    } // the end
    /* of it */
}
"""
SHORT = '// mine\n{\n  "theme": "x" // dark\n}\n'
CLAUDE = '{\n\t"permissions": {"allow": ["Bash(ls:*)", "Read"]},\n\t"env": {"A": "\\u00fc"},\n\t"n": 1.10}'


@settings(max_examples=40)
@given(OBJECTS, OBJECTS, INDENTS)
def test_what_is_read_is_what_was_asked_for(before: dict[str, Any], after: dict[str, Any], indent: Any) -> None:
    text = json.dumps(before, indent=indent)
    assert edited(text, before) == text
    assert json.dumps(read(edited(text, after)), sort_keys=True) == json.dumps(after, sort_keys=True)


@settings(max_examples=40)
@given(OBJECTS, OBJECTS)
def test_comments_stay(before: dict[str, Any], after: dict[str, Any]) -> None:
    """One behind every comma and bracket that begins a line's end."""
    lines = json.dumps(before, indent=2).split("\n")
    text = "\n".join(f"{line} // {number}" for number, line in enumerate(lines))
    if any(character in line for line in lines for character in ("\r", "//")):
        return  # in a string
    made = edited(text, after, comments=True)
    assert json.dumps(read(made, comments=True), sort_keys=True) == json.dumps(after, sort_keys=True)
    if before:
        assert edited(edited(text, {**before, "ours, long": after}, comments=True), before, comments=True) == text


@settings(max_examples=40)
@given(OBJECTS, VALUES, INDENTS)
def test_what_is_put_in_and_taken_out_again_leaves_the_text(before: dict[str, Any], more: Any, indent: Any) -> None:
    before = {"first": [1, {"deep": 2}], **before}
    text = json.dumps(before, indent=indent)
    assert edited(edited(text, {**before, "ours, long": more}), before) == text
    longer = {**before, "first": [*before["first"], more]} if isinstance(before["first"], list) else before
    assert edited(edited(text, longer), before) == text


@pytest.mark.parametrize(
    ("agent", "text"), [("gemini", GEMINI), ("gemini", SHORT), ("claude", CLAUDE), ("claude", '{"a": 1, "b": [1, 2]}')]
)
def test_a_settings_file_is_as_it_was_to_the_letter(tmp_path: Path, agent: str, text: str) -> None:
    hooks = next(one for one in integrations(tmp_path, "/opt/a b/coord") if one.name == agent)
    server = next(one for one in registrations(tmp_path, "/opt/a b/coord") if one.name == agent)
    first = hooks.wanted(text)
    both = server.wanted(first)
    assert (hooks.wanted(both), server.wanted(both)) == (both, both), "twice is once"
    assert "/opt/a b/coord" in first
    assert first != both
    for line in text.splitlines()[:-4]:
        assert line.replace(",", "").rstrip("}") in both.replace(",", "")
    moved = next(one for one in integrations(tmp_path, "/elsewhere/coord") if one.name == agent).wanted(both)
    assert "/elsewhere/coord" in moved
    rest = hooks.without(moved)
    assert rest is not None
    assert server.without(rest) == text


@pytest.mark.parametrize(
    "text", ["{", "[1,]", '{"a" 1}', '{"a": 1} x', "{'a': 1}", "// only", '{"a": 1 "b": 2}', "{1: 2}", "/* open"]
)
def test_what_is_no_json_is_no_json_with_comments_either(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text, comments=True)
    with pytest.raises(CoordinationError):
        next(one for one in integrations(tmp_path, "/opt/coord") if one.name == "gemini").wanted(text)


def test_comments_are_for_agents_that_take_them() -> None:
    assert read('/* a */ {"a": "// no", // b\n "c": 2 }\n// d', comments=True) == {"a": "// no", "c": 2}
    with pytest.raises(ValueError, match="Expecting"):
        read('{"a": 1 // b\n}')
    assert written({"a": "ü"}) == '{\n  "a": "ü"\n}\n'
