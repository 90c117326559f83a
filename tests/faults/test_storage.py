"""Disks that are full, read-only, broken or damaged under a real daemon: it says so, the rest goes on, it is whole again after."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from tests.e2e.clones import COORD, Clone, connected, repository, wait_for
from tests.faults.places import MAY_MOUNT, SmallDisk

mounts = pytest.mark.skipif(not MAY_MOUNT, reason="mount namespaces can't be made here")
OFTEN: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s")


def problems(status: Any) -> str:
    return " ".join(status["problems"])


@pytest.fixture
def small() -> Iterator[tuple[SmallDisk, Clone]]:
    with repository("ann", "bob") as (ann, bob):
        disk = SmallDisk(ann, "12m")
        try:
            yield disk, bob
        finally:
            disk.close()


@mounts
def test_a_full_disk_refuses_leases_and_nothing_else_until_there_is_room(small: tuple[SmallDisk, Clone]) -> None:
    ann, bob = small
    ann.start(*OFTEN)
    bob.start(*OFTEN)
    wait_for("they meet", lambda: "bob" in {p["agentId"] for p in ann.json("peers")["peers"] if p["connection"] == "direct"}, 30)
    ann.run(COORD, "lease", "before.py")
    filler = ann.fill()

    def refused() -> bool:
        """A little that still fits may be written meanwhile: then the disk is thought well until the next lease."""
        error = ann.json("lease", "src/auth.py", expect=1)["error"]
        assert error["code"] == "storage"
        assert "free some disk space" in error["hint"]
        told = "the disk failed" in problems(ann.json("status"))
        broken = {finding["name"]: finding for finding in ann.json("doctor", expect=1)["findings"] if not finding["ok"]}
        return told and "problem" in broken and broken["disk"]["hint"] == "make room"

    wait_for("it is refused, and status and doctor say why", refused)
    # Nobody believes that it holds what it was refused; the others go on, and it sees what they do.
    assert not any(["file", "src/auth.py"] in lease["resources"] for lease in ann.json("leases", "--all")["leases"])
    bob.coord("lease", "src/auth.py")
    wait_for("ann sees it", lambda: ann.json("check", "src/auth.py", expect=None).get("conflicts"))
    bob.coord("release", "src/auth.py")
    filler.unlink()
    wait_for("ann can lease", lambda: ann.run(COORD, "lease", "src/auth.py", "--wait", "10s", expect=None).returncode == 0, 30)
    wait_for("it is all well", lambda: not ann.json("status")["problems"])
    ann.run(COORD, "work", "set", "--file", "kept.py")
    ann.run(COORD, "stop")
    assert ann.start(*OFTEN)["problems"] == []


@mounts
def test_a_start_on_a_full_disk_or_in_a_read_only_folder_says_so_and_the_next_one_works(small: tuple[SmallDisk, Clone]) -> None:
    ann, _ = small
    filler = ann.fill()
    for _ in range(2):
        error = ann.start(expect=1)["error"]
        assert error["code"] == "storage", error
        assert "full" in error["hint"] or "space" in error["hint"], error
    filler.unlink()
    peer = ann.start()["peerId"]
    ann.run(COORD, "stop")
    read_only = ("mount", "-o", "remount,ro", str(ann.clone.state_dir))
    wait_for("its last files are closed", lambda: ann.run(*read_only, expect=None).returncode == 0)
    error = ann.start(expect=1)["error"]
    assert error["code"] == "storage"
    assert "writable" in error["hint"]
    broken = [finding for finding in ann.json("doctor", expect=1)["findings"] if not finding["ok"]]
    assert [finding["name"] for finding in broken] == ["disk"]
    assert "writable" in broken[0]["hint"]
    ann.run("mount", "-o", "remount,rw", str(ann.clone.state_dir))
    assert ann.start()["peerId"] == peer


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of other processes are Linux's")
def test_writes_that_fail_are_told_and_tried_again() -> None:
    with repository("ann") as (ann,):
        ann.start()
        process = psutil.Process(ann.pid)
        _, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (1, hard))
        assert ann.json("lease", "src/auth.py", expect=1)["error"]["code"] == "storage"
        assert "the disk failed" in problems(ann.json("status"))
        assert process.is_running()
        process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        ann.coord("lease", "src/auth.py")
        assert ann.json("status")["problems"] == []


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 7)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, pytest.param(garbage, marks=pytest.mark.slow), pytest.param(gone, marks=pytest.mark.slow)])
def test_a_damaged_database_is_set_aside_told_and_rebuilt_from_peers(damage: Callable[[Path], None]) -> None:
    with repository("ann", "bob") as (ann, bob):
        ann.start(*OFTEN)
        bob.start(*OFTEN)
        wait_for("they meet", lambda: connected(ann, bob), 30)
        ann.coord("work", "set", "--file", "src/auth.py", "--status", "by ann")
        ann.coord("issue", "update", "7", "--title", "kept by ann")
        ann.coord("lease", "src/auth.py")
        peer = bob.json("status")["peerId"]
        bob.coord("issue", "update", "9", "--title", "kept by bob")
        bob.coord("spec", "update", "specs/auth.md", "--set", "by=bob")
        wait_for("bob has it", lambda: {i["issueId"] for i in bob.json("issue", "show")["issues"]} == {"7", "9"})
        wait_for("ann has bob's", lambda: "kept by bob" in ann.coord("issue", "show").stdout)
        bob.coord("stop")
        damage(bob.state_dir / "state.db")
        ann.coord("issue", "update", "8", "--title", "meanwhile")

        status = bob.start(*OFTEN)
        assert status["peerId"] == peer, "the identity is not in the database"
        findings = bob.json("doctor", expect=None)["findings"]
        aside = bob.state_dir / "state.db.corrupt-1"
        if damage is gone:
            assert not aside.exists()
        else:
            assert "kept as state.db.corrupt-1" in problems(status)
            assert "comes back" in next(f["message"] for f in findings if f["name"] == "problem")
            assert "rm " in next(f["hint"] for f in findings if f["name"] == "damaged")
            assert aside.stat().st_size
        wait_for("they meet again", lambda: connected(ann, bob), 30)
        wait_for("it is rebuilt", lambda: {i["issueId"] for i in bob.json("issue", "show")["issues"]} == {"7", "8", "9"})
        wait_for("what bob wrote is bob's again", lambda: "bob" in bob.coord("spec", "show").stdout)
        wait_for("and ann's still", lambda: "kept by bob" in ann.coord("issue", "show").stdout)
        wait_for("ann's work shows", lambda: "by ann" in bob.coord("work", "show").stdout)
        assert bob.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "ann"


@pytest.mark.slow
def test_an_old_state_folder_that_was_restored_is_outgrown(tmp_path: Path) -> None:
    """From a backup, say: what bob wrote since then must not be taken for what it writes now, nor the other way round."""
    with repository("ann", "bob") as (ann, bob):
        ann.start(*OFTEN)
        bob.start(*OFTEN)
        wait_for("they meet", lambda: connected(ann, bob), 30)
        bob.coord("issue", "update", "1", "--title", "early")
        bob.coord("stop")
        shutil.copytree(bob.state_dir, tmp_path / "backup", ignore=shutil.ignore_patterns("*.sock"))
        bob.start(*OFTEN)
        bob.coord("issue", "update", "1", "--title", "late")
        wait_for("ann sees it", lambda: "late" in ann.coord("issue", "show").stdout)
        bob.coord("stop")
        shutil.rmtree(bob.state_dir)
        shutil.copytree(tmp_path / "backup", bob.state_dir)
        bob.start(*OFTEN)
        wait_for("they meet again", lambda: connected(ann, bob), 30)
        bob.coord("issue", "update", "1", "--title", "latest")
        wait_for("ann sees it", lambda: "latest" in ann.coord("issue", "show").stdout)
        assert ann.json("status")["problems"] == []
        subprocess.run(["git", "fsck", "--strict"], cwd=bob.folder, check=True, capture_output=True)
