"""docs/threat-model.md: every row is held by a test that exists, or says that it is not defended; every story is in a row."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)`")


def rows() -> list[list[str]]:
    """Of the tables about threats: what, answer, test."""
    tables = TEXT.split("| answer | test |\n")[1:]
    lines = [line for table in tables for line in table.split("\n\n")[0].splitlines()[1:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_there_are_rows() -> None:
    assert len(rows()) > 40
    assert {len(row) for row in rows()} == {3}


def test_every_test_that_is_named_exists_and_has_tests() -> None:
    named = sorted(set(TEST.findall(TEXT)))
    assert len(named) > 25
    missing = [name for name in named if not (ROOT / name).is_file() or "\ndef test_" not in (ROOT / name).read_text("utf-8")]
    assert missing == []


def test_every_row_is_held_by_a_test_or_says_that_it_is_not_defended() -> None:
    loose = [what for what, answer, test in rows() if not TEST.search(test) and "**not defended" not in answer.lower()]
    assert loose == []


def test_every_story_is_in_a_row() -> None:
    told = {name for row in rows() for name in TEST.findall(row[2])}
    stories = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert sorted(stories - told) == []
