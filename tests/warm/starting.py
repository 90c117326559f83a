"""Daemons that start warm: forked from a process that has imported libp2p already.

Two thirds of what a daemon costs in a test is that import (a second of CPU). The commands are the real ones, and so is the daemon,
its arguments, environment, descriptors and life; only its interpreter does not begin from nothing. What a cold start is like is
tested in `tests/e2e/` and by the README.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
SITE: Final = Path(__file__).resolve().parent / "site"


class Warm:
    """The process that daemons are forked from, as a context manager.

    Args:
        folder: where its socket is; a short path.
    """

    def __init__(self, folder: Path) -> None:
        self._address = folder / "warm"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(self._address)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def environment(self, pids: Path | None = None) -> dict[str, str]:
        """For processes whose daemons are to start warm; the daemons' process ids are added to the file."""
        before = os.environ.get("PYTHONPATH")
        return {
            "PYTHONPATH": os.pathsep.join((str(SITE), before)) if before else str(SITE),
            "SUDOCODE_TEST_WARM": str(self._address),
            "SUDOCODE_TEST_WARM_PIDS": str(pids or os.devnull),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ended = self._process.poll()
        self._process.terminate()
        self._process.communicate(timeout=30)
        assert ended is None, "it ended before it was asked to, and daemons started cold since"


def running(pids: Path) -> list[psutil.Process]:
    """The daemons of `pids` that still live."""
    found = []
    for pid in pids.read_text("utf-8").split() if pids.exists() else ():
        try:
            process = psutil.Process(int(pid))
            if "tests.warm" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, and maybe somebody else's by now
    return found
