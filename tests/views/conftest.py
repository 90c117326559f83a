"""Screens as they were, in text files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

SNAPSHOTS: Final = Path(__file__).parent / "snapshots"
_DURATION: Final = re.compile(r"(?<![\w.])\d+(?:m\d\ds|h\d\dm|d\d+h|ms|[smhd])(?: ago)?(?![\w.])( *)")
_ALIKE: Final = (
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "HH:MM:SS"),
    (re.compile(r"/tmp/sc-\w{8}"), "FOLDER"),
    (re.compile(r"/ip4/[\d.]+/tcp/\d+"), "ADDRESS"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{10}\b"), "COMMIT"),
    (re.compile(r"\bEvents( \d+)?"), "Events N"),
)
"""What differs from run to run."""


def normalised(screen: str) -> str:
    """The screen without what differs from run to run; columns stay where they are."""

    def of_time(found: re.Match[str]) -> str:
        blanks = len(found[1])
        # Two blanks or more: a column follows, which keeps its place.
        return "T" + " " * (blanks if blanks < 2 else len(found[0]) - 1)

    lines = []
    for line in screen.splitlines():
        for pattern, what in _ALIKE:
            line = pattern.sub(what, line)
        lines.append(_DURATION.sub(of_time, line.replace(" now", " 0s ago")).rstrip())
    return "\n".join(lines) + "\n"


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a screen with the one of that name; `--update-snapshots` writes it anew."""

    def compare(name: str, screen: str) -> None:
        path, shown = SNAPSHOTS / f"{name}.txt", normalised(screen)
        if request.config.getoption("--update-snapshots"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(shown, "utf-8")
        assert shown == path.read_text("utf-8"), f"{path} (--update-snapshots writes it anew)"

    return compare
