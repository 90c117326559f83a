"""What is printed can't steer a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.cli.text import MAX_SHOWN, clean, resource_name, shown_duration
from sudocode_coordination.model import Resource


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain", "plain"),
        ("Grüße 日本 🙂", "Grüße 日本 🙂"),
        ("\x1b[2Jgone", "�[2Jgone"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x9b31mred", "�31mred"),
        ("a\rb\nc\td", "a b c d"),
        ("user\u202etxt.exe", "user�txt.exe"),
        ("\u2066isolated\u2069", "�isolated�"),
        ("zero\u200bwidth\ufeff", "zero�width�"),
        ("\ud800", "�"),
        ("\x7f", "�"),
    ],
)
def test_clean(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


@given(st.text(alphabet=st.characters()))
def test_nothing_unprintable_survives(text: str) -> None:
    shown = clean(text)
    assert len(shown) <= MAX_SHOWN
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)


def test_long_text_is_cut() -> None:
    assert clean("x" * 5_000, 10) == "xxxxxxxxx…"
    assert clean("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (-5, "0s"),
        (0, "0ms"),
        (850, "850ms"),
        (1_000, "1s"),
        (59_999, "59s"),
        (245_000, "4m05s"),
        (300_000, "5m"),
        (7_800_000, "2h10m"),
        (86_400_000, "1d"),
        (90_000_000, "1d1h"),
    ],
)
def test_durations(ms: int, shown: str) -> None:
    assert shown_duration(ms) == shown


def test_resource_names_are_the_same_encoded_and_not() -> None:
    assert resource_name(Resource("file", "src/a.py")) == resource_name(["file", "src/a.py"]) == "src/a.py"
    assert resource_name(Resource("issue", "#42")) == resource_name(("issue", "#42")) == "issue:#42"
    assert resource_name(["file", "a\x1b[0m"]) == "a�[0m"
