"""The screens in the documents are what is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.views.conftest import normalised

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_shows_what_is_shown() -> None:
    script = ROOT / "scripts" / "make_screens.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"run: uv run scripts/make_screens.py\n{done.stderr}"


@pytest.mark.parametrize(
    ("screen", "same"),
    [
        ("left 4m59s  note", "left T      note"),
        ("left 5m     note", "left T      note"),
        ("4m20s of 5m, unless", "T of T, unless"),
        ("since 10:37:58, 5s ago", "since HH:MM:SS, T"),
        ("since now", "since T"),
        ("[7 Events 123]", "[7 Events N]"),
        ("leaving 0123456789 main", "leaving COMMIT main"),
        ("src/v1.5m/x 3 #42", "src/v1.5m/x 3 #42"),
    ],
)
def test_what_differs_from_run_to_run_does_not_count(screen: str, same: str) -> None:
    assert normalised(screen) == same + "\n"
