"""A reader who does what a document says: a folder with a git remote and two clones, and one shell from block to block."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
from tests.bridge.nodejs import FOLDER as JAVASCRIPT
from tests.docs.blocks import Block, Step, fits, plain, steps_of
from tests.warm.starting import Warm, running

from sudocode_coordination.config import config_from_mapping

STEP_LIMIT_S: Final = 90.0
"""The longest command of the documents is `coord demo`."""
LOOKING_LIMIT_S: Final = 20.0
"""How long a command that only looks is repeated until it shows what the document does."""
FIRST_PAUSE_S: Final = 0.2
PAUSES_GROW: Final = 1.4
"""A look costs a tenth of a second of the processor that what is waited for needs as well."""
LOOKING: Final = re.compile(
    r"(cd \S+ && )?(git (fetch|show|branch|log|ls-tree|status)"
    r"|coord (peers|status|leases|check|conflicts|events|doctor|messages(?! --ack)|\w+ show)|cat)\b[^;|&>]*"
    r"(; echo [^;|&>]*)?( *&& git (show|branch|ls-tree) [^;|&>]*)?"
)
"""Repeating them changes nothing."""
FILES: Final = {
    "README.md": "# Shop\n",
    "src/auth.py": "def login() -> None: ...\n",
    "src/db.py": "def connect() -> None: ...\n",
    "specs/auth.md": "# Auth\n",
}
LOOPBACK: Final = "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/tcp/0/ws"
"""Tests stay off the network; what a reader sees is the same but for the addresses."""
_UV: Final = """#!/bin/sh
# `uv run X` of the documents: X of the environment that the tests run in, which is the one that uv would make.
[ "$1" = run ] || { echo "uv $*: not in the documents' vocabulary" >&2; exit 2; }
shift
exec "$@"
"""
_PIP: Final = """#!/bin/sh
[ "$*" = "install uv" ] || { echo "pip $*: not in the documents' vocabulary" >&2; exit 2; }
"""
_MARK: Final = "SUDOCODE_TEST_DOCUMENT"


class Scenario:
    """Runs blocks; what they change (directory, variables, daemons) stays for the next one.

    Args:
        warm: what `coord start` forks its daemons from; without it, each is started from nothing.

    Attributes:
        world: the folder the reader begins in; it has `shared.git` (bare) and its clones `alice` and `bob`.
    """

    def __init__(self, folder: Path, warm: Warm | None = None) -> None:
        self.world = folder / "w"
        self._own = folder / "own"
        self._pids = self._own / "pids"
        self._mark = uuid.uuid4().hex
        self._count = 0
        bin_ = self._own / "bin"
        bin_.mkdir(parents=True)
        for name, text in (("uv", _UV), ("pip", _PIP)):
            (bin_ / name).write_text(text, "utf-8")
            (bin_ / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(bin_), str(Path(sys.executable).parent), os.environ["PATH"])),
            "COLUMNS": "140",
            "COORD_LISTEN_ADDRESSES": LOOPBACK,
            _MARK: self._mark,
            **(warm.environment(self._pids) if warm is not None else {}),
        }
        self._environment.pop("CI", None)
        (self._own / "state").write_text(f"cd {self.world}\n", "utf-8")
        self._make_clones()

    def _make_clones(self) -> None:
        self.world.mkdir()
        self._git(self.world, "init", "-q", "--bare", "shared.git")
        self._git(self.world, "clone", "-q", "shared.git", "alice")
        for name, text in FILES.items():
            path = self.world / "alice" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        self._git(self.world / "alice", "add", ".")
        self._git(self.world / "alice", "commit", "-q", "-m", "first")
        self._git(self.world / "alice", "push", "-q", "origin", "main")
        self._git(self.world, "clone", "-q", "shared.git", "bob")

    def _git(self, folder: Path, *arguments: str) -> None:
        done = subprocess.run(["git", *arguments], cwd=folder, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def run(self, block: Block) -> None:
        """Do what one block says; an assertion fails if it does not go as shown."""
        match block.language:
            case "console":
                for step in steps_of(block):
                    self._run_step(block, step)
            case "sh":
                code, output = self.shell(f"set -e\n{block.text}")
                assert code == 0, f"{block}: exit code {code}\n{output}"
            case "python":
                script = self._own / "block.py"
                script.write_text(block.text, "utf-8")
                code, output = self.shell(f"python {script}")
                assert code == 0, f"{block}: exit code {code}\n{output}"
            case "js":
                script = self._own / "block.mjs"
                script.write_text(block.text, "utf-8")
                packages = self._own / "node_modules"
                if not packages.exists():
                    packages.symlink_to(JAVASCRIPT / "node_modules")
                code, output = self.shell(f"node {script}")
                assert code == 0, f"{block}: exit code {code}\n{output}"
            case "toml":
                config_from_mapping(tomllib.loads(block.text), source=str(block))
            case other:
                raise AssertionError(f"{block}: no way to run {other!r}")

    def _run_step(self, block: Block, step: Step) -> None:
        deadline = time.monotonic() + (LOOKING_LIMIT_S if LOOKING.fullmatch(step.command) else 0)
        pause = FIRST_PAUSE_S
        while True:
            code, output = self.shell(step.command)
            if code == 0 and (not step.expected or fits(step.expected, output)):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(pause)
            pause *= PAUSES_GROW
        raise AssertionError(f"{block}: $ {step.command}\nexit code {code}, shown:\n{step.expected}\n\nit said:\n{plain(output)}")

    def shell(self, script: str) -> tuple[int, str]:
        """Exit code and output of a script in the reader's shell."""
        self._count += 1
        log = self._own / f"log-{self._count}"
        state = self._own / "state"
        wrapped = f'. {state}\ntrap \'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}\' EXIT\n{script}\n'
        # A file, no pipe: a daemon that is started holds it open.
        with log.open("wb") as out:
            done = subprocess.run(
                ["bash", "-c", wrapped],
                env=self._environment,
                cwd=self.world,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=STEP_LIMIT_S,
            )
        return done.returncode, log.read_text("utf-8", "replace")

    def close(self) -> None:
        """End every daemon that the document has left running."""
        left = running(self._pids)
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    left.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # gone meanwhile, or somebody else's
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stuck = psutil.wait_procs(left, timeout=15)
        for process in stuck:
            process.kill()
        psutil.wait_procs(stuck, timeout=5)
        assert not stuck, f"did not end when asked to: {stuck}"
