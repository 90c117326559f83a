"""Killed at any point of its life, a daemon leaves nothing that keeps the next one from starting, and two never run at once."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Final

import psutil
import pytest
from tests.e2e.clones import Clone, repository, wait_for

from sudocode_coordination.cli.lifecycle import daemon_command
from sudocode_coordination.place import find_clone

LOOPBACK: Final = {"listen_addresses": ["/ip4/127.0.0.1/tcp/0"], "agent_id": "ann"}


def launch(clone: Clone) -> psutil.Popen:
    """A daemon as a child of this process, so that its pid is known from its first moment."""
    return psutil.Popen(daemon_command(find_clone(clone.folder), LOOPBACK), stdin=-3, stdout=-3, stderr=-3, cwd="/")


def kill_somewhere(clone: Clone, random: Random, longest_s: float) -> None:
    """Start one, and kill it at a moment between its first instruction and its active life; or in the midst of its stop."""
    process = launch(clone)
    try:
        time.sleep(random.uniform(0, longest_s))  # the fault itself: a moment that nothing chooses
        if random.random() < 0.3:
            process.terminate()
            time.sleep(random.uniform(0, 0.3))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("times", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_at_any_moment_the_next_start_works(times: int) -> None:
    random = Random(times)
    with repository("ann") as (ann,):
        began = time.monotonic()
        identity = ann.start()["peerId"]
        took = time.monotonic() - began
        ann.coord("lease", "src/auth.py")
        ann.coord("issue", "update", "1", "--title", "kept")
        ann.kill()
        for _ in range(times):
            kill_somewhere(ann, random, took)
        status = ann.start()
        assert status["peerId"] == identity
        assert status["problems"] == []
        assert "kept" in ann.coord("issue", "show").stdout
        assert ann.json("leases", "--all")["leases"] == [], "what a dead daemon held is free"
        ann.coord("lease", "src/auth.py")
        assert not list(ann.state_dir.glob("state.db.corrupt-*"))
        left = {path.name for path in ann.state_dir.iterdir() if path.name.endswith(".new") or path.name.startswith(".")}
        assert len(left) <= times, left
        wait_for("its record is on the branch", lambda: ann.json("status")["remote"]["pushes"], 60)


def test_a_first_start_that_is_killed_leaves_one_identity_at_the_most() -> None:
    random = Random(3)
    with repository("ann") as (ann,):
        for _ in range(3):
            kill_somewhere(ann, random, 1.0)
        key = ann.state_dir / "identity.key"
        known = key.read_bytes() if key.exists() else None
        ann.start()
        assert known is None or key.read_bytes() == known
        assert key.stat().st_mode & 0o777 == 0o600


def test_starts_that_race_with_each_other_and_with_a_kill() -> None:
    with repository("ann") as (ann,):
        first = ann.start()["peerId"]
        pid = ann.pid

        def start(number: int) -> int:
            if number == 0:
                os.kill(pid, signal.SIGKILL)
            return ann.coord("start", "--agent-id", "ann", "--listen", "/ip4/127.0.0.1/tcp/0", expect=None).returncode

        with ThreadPoolExecutor(3) as pool:
            codes = list(pool.map(start, range(3)))
        if 0 not in codes:  # all of them came before the kill
            ann.start()
        assert codes.count(0) <= 1, "one daemon runs, the others were told so"

        def ours() -> list[int]:
            found = psutil.process_iter(["cmdline"])
            return [p.pid for p in found if str(ann.folder) in (p.info["cmdline"] or []) and "-m" in p.info["cmdline"]]

        wait_for("those that were told so have ended", lambda: len(ours()) == 1, 60)
        assert [ann.pid] == ours()
        assert ann.json("status")["peerId"] == first
