"""Node.js and the packages of `tests/js`: programs that talk to a test by lines of JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

FOLDER: Final = Path(__file__).resolve().parents[1] / "js"
OLDEST: Final = 18
"""Major version of Node.js."""
LIMIT_S: Final = 60.0
"""For anything that a program is waited for, on a machine that is busy."""


def what_is_missing() -> str:
    """Why the programs can't be run here; empty if they can."""
    node = shutil.which("node")
    if node is None:
        return f"there is no Node.js (nodejs {OLDEST} or later)"
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"v(\d+)\.", told)
    if version is None or int(version[1]) < OLDEST:
        return f"Node.js {OLDEST} or later is needed, this is {told.strip()}"
    for name, wanted in json.loads((FOLDER / "package.json").read_text("utf-8"))["dependencies"].items():
        try:
            installed = json.loads((FOLDER / "node_modules" / name / "package.json").read_text("utf-8"))["version"]
        except FileNotFoundError:
            installed = "missing"
        if installed != wanted:
            return f"{name} {wanted} is not installed ({installed}): npm ci --prefix tests/js"
    return ""


def need_node() -> None:
    """Skip the test where the programs can't be run; in CI that is an error."""
    missing = what_is_missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


class Program:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[Any] = []
        """All that it has said."""
        self.errors: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def tell(self, what: object) -> None:
        """A line of JSON for its standard input."""
        self.tell_line(json.dumps(what))

    def tell_line(self, line: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def until(self, what: str, condition: Callable[[Any], Any], *, after: int = 0) -> Any:
        """The first thing said (from the `after`th on) that fits."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [one for one in self.said[after:] if condition(one)][:1]
            return bool(found) or self._ended

        with self._news:
            in_time = self._news.wait_for(look, LIMIT_S)
        assert found, f"{'it ended before' if in_time else 'not in time'}: {what}\n{self.said[-3:]}\n{''.join(self.errors)[-4000:]}"
        return found[0]

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(LIMIT_S)


@contextmanager
def program(name: str) -> Iterator[Program]:
    """Run `tests/js/<name>`."""
    process = subprocess.Popen(
        ["node", str(FOLDER / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    running = Program(process)
    try:
        yield running
    finally:
        process.kill()
        process.wait(LIMIT_S)
        for reader in running._readers:
            reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
