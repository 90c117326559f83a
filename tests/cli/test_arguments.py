"""Durations and pairs."""

from __future__ import annotations

import pytest

from sudocode_coordination.cli.arguments import key_values, parse_duration, word_list
from sudocode_coordination.errors import UsageError


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("90s", 90_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("2d", 172_800_000),
        ("30", 30_000),
    ],
)
def test_duration(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "m", "5x", "5m!", "-5s", "1h 30", "5 m", "9999d", "1" * 400, "٣s", "nan", "1e9"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_pairs_are_json_or_text() -> None:
    pairs = ["a=1", "b=text", 'c={"d": [true]}', "e=null", "f=", "g=x=y", "h=NaN"]
    assert key_values(pairs, "--set") == {"a": 1, "b": "text", "c": {"d": [True]}, "e": None, "f": "", "g": "x=y", "h": "NaN"}


@pytest.mark.parametrize("pairs", [["novalue"], ["=x"], ["a=1", "a=2"]])
def test_bad_pairs(pairs: list[str]) -> None:
    with pytest.raises(UsageError):
        key_values(pairs, "--set")


def test_word_list() -> None:
    assert word_list(None) is None
    assert word_list(["a,b", " c ", ","]) == ("a", "b", "c")


def test_a_value_that_is_nested_too_deep_is_told() -> None:
    with pytest.raises(UsageError, match="too deep"):
        key_values(["a=" + "[" * 50_000 + "]" * 50_000], "--set")
