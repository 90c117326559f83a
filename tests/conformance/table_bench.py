"""Lease tables on real remotes, and a `GitTable` in a trio thread of its own that plain test code can drive."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from tests.conformance.git_bench import PATIENCE_S, Loop, git

from sudocode_coordination.adapters.git_table import REF, GitTable
from sudocode_coordination.core.io import (
    BuildTable,
    Input,
    SwapTable,
    TableBuilt,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)

Swapped = TableSwapped | TableSwapFailed
STATE = "sudocode-coordination/leases.git"
WALL_MS = 1_800_000_000_123


def change(ticket: int, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> SwapTable:
    """A swap; the nonce is the ticket's if none is given."""
    return SwapTable(ticket=ticket, parent=parent, changes=changes, nonce=nonce or f"n{ticket}", wall_ms=WALL_MS)


class TableHandle:
    """One `GitTable` and what it has delivered."""

    def __init__(self, loop: Loop, git_dir: Path, **options: Any) -> None:
        self.got: list[Input] = []
        self.loop = loop
        self.tickets = 0
        self.folder = git_dir / STATE
        remote = options.pop("remote", "origin")
        self.table = GitTable(git_dir, self.folder, remote, self.got.append, **options)
        self.scope: trio.CancelScope = loop.start(self.table)

    def wait(self, found: Callable[[Input], bool]) -> Input:
        """The first delivered input that fits; it is taken out."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for given in list(self.got):
                if found(given):
                    self.got.remove(given)
                    return given
            time.sleep(0.002)  # a poll; the deadline above is the limit
        raise AssertionError(f"nothing came: {self.got}")

    def read(self, *, whole: bool = False) -> TableRead | TableReadFailed:
        self.loop.call(lambda: self.table.read_table(whole=whole))
        given = self.wait(lambda i: isinstance(i, TableRead | TableReadFailed))
        assert isinstance(given, TableRead | TableReadFailed)
        return given

    def start_swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> SwapTable:
        self.tickets += 1
        wanted = change(self.tickets, parent, changes, nonce)
        self.loop.call(lambda: self.table.swap_table(wanted))
        return wanted

    def outcome(self, wanted: SwapTable) -> Swapped:
        given = self.wait(lambda i: isinstance(i, Swapped) and i.ticket == wanted.ticket)
        assert isinstance(given, Swapped)
        return given

    def swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> Swapped:
        return self.outcome(self.start_swap(parent, changes, nonce))

    def build(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> TableBuilt | TableSwapFailed:
        self.tickets += 1
        wanted = BuildTable(ticket=self.tickets, parent=parent, changes=changes, nonce=nonce or f"n{self.tickets}", wall_ms=WALL_MS)
        self.loop.call(lambda: self.table.build_table(wanted))
        given = self.wait(lambda i: isinstance(i, TableBuilt | TableSwapFailed) and i.ticket == wanted.ticket)
        assert isinstance(given, TableBuilt | TableSwapFailed)
        return given


def tip_of(bare: Path, ref: str = REF) -> str | None:
    """What a ref of a bare repository is."""
    return git(bare, "for-each-ref", "--format=%(objectname)", ref) or None


def table_on(bare: Path, ref: str = REF) -> dict[str, bytes]:
    """The files of the table in a bare repository."""
    if tip_of(bare, ref) is None:
        return {}
    names = [name for name in git(bare, "ls-tree", "-r", "--name-only", "-z", ref).split("\0") if name]
    return {
        name: subprocess.run(["git", "cat-file", "blob", f"{ref}:{name}"], cwd=bare, check=True, capture_output=True).stdout
        for name in names
    }


def landed(outcome: Swapped) -> str:
    """The commit of a swap that must have landed."""
    assert isinstance(outcome, TableSwapped), outcome
    return outcome.commit


def lost(outcome: Swapped) -> str:
    """The kind of a swap that must not have landed."""
    assert isinstance(outcome, TableSwapFailed), outcome
    return outcome.kind


@contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """Serve a folder by the git protocol on loopback; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={root}", "--export-all", "--reuseaddr"]
    daemon = subprocess.Popen(
        [*command, "--enable=receive-pack", str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, "git daemon does not listen"
                time.sleep(0.01)  # a poll; the deadline above is the limit
        yield f"git://127.0.0.1:{port}"
    finally:
        # `git daemon` is a child of `git`: both are asked to end.

        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(PATIENCE_S)


def clone_of(url: str, folder: Path, name: str = "clone", *options: str) -> Path:
    """A clone in a folder."""
    git(folder, "clone", "-q", *options, url, name)
    return folder / name


def handle_of(loop: Loop, folder: Path, url: Path | str, name: str = "clone") -> TableHandle:
    """The table of a fresh clone."""
    return TableHandle(loop, clone_of(str(url), folder, name) / ".git")


def hook_of(bare: Path, name: str, script: str) -> Path:
    """A hook of the remote."""
    hook = bare / "hooks" / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    hook.chmod(0o755)
    return hook


def table(given: TableRead | TableReadFailed) -> TableRead:
    """A read that must have succeeded."""
    assert isinstance(given, TableRead), given
    return given


def reason(given: object) -> str:
    """Why something failed that must have."""
    assert isinstance(given, TableReadFailed | TableSwapFailed), given
    assert "\n" not in given.reason
    assert len(given.reason) <= 700
    return given.reason


def works(one: TableHandle, bare: Path, ref: str = REF) -> None:
    """Make, change, read: the whole round."""
    assert table(one.read()).commit is None
    first = landed(one.swap(None, {"a/x": b"1", "b/y": b"1"}))
    second = landed(one.swap(first, {"a/x": b"2", "b/y": None}))
    assert tip_of(bare, ref) == second
    assert table_on(bare, ref) == {"a/x": b"2"}
    assert table(one.read(whole=True)) == TableRead(commit=second, changed={"a/x": b"2"}, ref=ref)
