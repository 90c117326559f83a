"""The model of fast leases holds in all its variants, and every fault planted in it is caught."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "docs" / "model" / "check"
TIMEOUT_S = 7_200
"""A quarter of an hour on a small machine that has nothing else to do; each search in it has a limit of its own."""


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_model_holds_and_every_planted_fault_is_caught() -> None:
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the model needs {' and '.join(missing)}, which is not installed here (Debian: apt-get install spin gcc)")
    ran = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].endswith(" 0 wrong")
