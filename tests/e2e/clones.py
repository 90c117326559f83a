"""Real clones of a real repository, and the real command in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

T = TypeVar("T")
COORD: Final = str(Path(sys.executable).parent / "coord")
LOOPBACK: Final = "/ip4/127.0.0.1/tcp/0"
LIMIT_S: Final = 60.0
QUICK: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s", "--lease-ttl", "4s", "--set", "max_lease_ttl_ms=10000")
"""Settings for tests that wait for a lease to run out."""


def wait_for(what: str, condition: Callable[[], T | None], limit_s: float = 10.0) -> T:
    """The condition's first value that is not None, False or empty."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


class Clone:
    """One clone and its daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def coord(
        self, *arguments: str, expect: int | None = 0, on: Sequence[str] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `coord` in the clone; `on`: what goes before the command, to run it on another machine."""
        done = subprocess.run(
            [*on, COORD, *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"coord {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str, expect: int | None = 0, on: Sequence[str] = ()) -> Any:
        """What `coord … --json` prints: one document."""
        return json.loads(self.coord(*arguments, "--json", expect=expect, on=on).stdout)

    def start(self, *more: str) -> Any:
        return self.json("start", "--agent-id", self.name, "--listen", LOOPBACK, *more)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """`coord` in the background."""
        return subprocess.Popen(
            [COORD, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def state_dir(self) -> Path:
        return self.folder / ".git" / "sudocode-coordination"

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return int(json.loads((self.state_dir / "daemon.json").read_text())["pid"])

    def kill(self) -> int:
        """kill -9 of the daemon; its pid."""
        pid = self.pid
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGKILL)
        process.wait(10)
        return pid

    def peers(self) -> dict[str, str]:
        """Agent -> connection."""
        return {peer["agentId"]: peer["connection"] for peer in self.json("peers")["peers"]}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The recent ones of a type."""
        lines = self.coord("events", "--last", "1000").stdout.splitlines()
        return [event for event in map(json.loads, lines) if event["type"] == kind]

    def git(self, *arguments: str, **environment: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, env={**os.environ, **environment}, check=True, capture_output=True, text=True
        ).stdout

    def end(self) -> None:
        """Whatever state it is in, its daemon is gone afterwards."""
        try:
            process = psutil.Process(self.pid)
        except (FileNotFoundError, psutil.NoSuchProcess):
            return
        process.terminate()
        try:
            process.wait(15)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(5)


def connected(*clones: Clone) -> bool:
    """All with all."""
    names = {clone.name for clone in clones}
    return all(
        {name for name, connection in clone.peers().items() if connection in ("direct", "relayed")} >= names - {clone.name}
        for clone in clones
    )


@contextmanager
def repository(*names: str) -> Iterator[list[Clone]]:
    """A bare remote with one commit, and clones of it."""
    folder = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp")).resolve()
    clones: list[Clone] = []

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)

    try:
        git("init", "-q", "--bare", "remote.git")
        git("clone", "-q", "remote.git", "first")
        (folder / "first" / "src").mkdir()
        (folder / "first" / "src" / "auth.py").write_text("pass\n")
        git("-C", "first", "add", ".")
        git("-C", "first", "commit", "-q", "-m", "first")
        git("-C", "first", "push", "-q", "origin", "HEAD:main")
        for name in names:
            git("clone", "-q", "remote.git", name)
            clones.append(Clone(folder / name))
        yield clones
    finally:
        for clone in clones:
            clone.end()
        shutil.rmtree(folder, ignore_errors=True)
