"""The remote is away for longer than records count: daemons that know each other go on, ask for it ever more rarely, and put their
records right when it is back. (For hours: `tests/sim/test_remote_for_hours.py`.)"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from tests.e2e.clones import LOOPBACK, Clone, connected, repository, wait_for

OFTEN: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s", "--set", "record_ttl_ms=60000")
AWAY_S: Final = 100.0
"""A record counts for sixty."""
MOST_CALLS: Final = 16
"""Of git over the network, by one daemon in that time: looks and pushes wait 2, 4, 8, 16, 32 and 60 s after a failure, and a push
looks first."""
AGAIN_S: Final = 100.0
"""The longest wait after a failure, and a push."""


def noting_git(folder: Path) -> tuple[str, Path]:
    """A PATH on which `git` writes down what it is called with, and where to."""
    real, log = shutil.which("git"), folder / "calls"
    wrapper = folder / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$PWD $*" >> {log}\nexec {real} "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    log.touch()
    return f"{wrapper.parent}:{Path(str(real)).parent}:/usr/bin:/bin", log


def start(clone: Clone, path: str) -> None:
    clone.coord("start", "--agent-id", clone.name, "--listen", LOOPBACK, *OFTEN, PATH=path)


def remote_calls(log: Path) -> Counter[str]:
    """Per clone: calls that go to the remote."""
    lines = log.read_text("utf-8").splitlines()
    return Counter(line.split()[0] for line in lines if {"fetch", "push", "ls-remote"} & set(line.split()))


def leases_exclude(holder: Clone, other: Clone, path: str) -> Any:
    lease = holder.json("lease", path)["lease"]
    assert other.json("lease", path, expect=3)["holders"][0]["agentId"] == holder.name
    return lease


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_work_goes_on_while_the_remote_is_away_and_records_are_put_right_after(short_tmp: Path) -> None:
    path, log = noting_git(short_tmp)
    with repository("ann", "bob", "cid") as clones:
        ann, bob, cid = clones
        remote = ann.folder.parent / "remote.git"
        for clone in clones:
            start(clone, path)
        wait_for("they meet", lambda: connected(*clones), 60)
        wait_for("a quorum", lambda: leases_exclude(ann, bob, "before.py")["grade"] == "quorum", 60)

        remote.rename(remote.with_name("away.git"))
        began = time.monotonic()
        log.write_text("")
        wait_for("it is told", lambda: all(clone.json("status")["remote"]["state"] == "unreachable" for clone in clones), 60)
        refused = ann.json("lease", "strict.py", "--strict", expect=1)["error"]
        assert refused["code"]
        assert refused["hint"]
        turn = 0
        while time.monotonic() - began < AWAY_S:
            turn += 1
            holder, other = clones[turn % 3], clones[(turn + 1) % 3]
            leases_exclude(holder, other, f"{turn}.py")
            if turn == 2:
                bob.kill()
                start(bob, path)
                wait_for("who was started again is back with those it knew", lambda: connected(*clones), 60)
            time.sleep(1.0)  # work between leases; the fault lasts that long
        calls = remote_calls(log)
        assert calls, "it is asked for all the same"
        assert max(calls.values()) <= MOST_CALLS, calls
        assert connected(*clones)
        assert leases_exclude(ann, cid, "before.py")
        assert ann.events("lease-lost") == []

        back = datetime.now(UTC)
        remote.with_name("away.git").rename(remote)

        def fresh() -> bool:
            names = ann.git("--git-dir", str(remote), "ls-tree", "-r", "--name-only", "coordination").split()
            seen = [json.loads(ann.git("--git-dir", str(remote), "show", f"coordination:{name}"))["lastSeen"] for name in names]
            return len(seen) == 3 and all(datetime.fromisoformat(text) > back for text in seen)

        wait_for("all records are of now", fresh, AGAIN_S)
        wait_for("and it is told", lambda: all(clone.json("status")["remote"]["state"] == "ok" for clone in clones), AGAIN_S)
        assert connected(*clones)
        assert ann.json("lease", "strict.py", "--strict")["lease"]["token"] >= 1
        for clone in clones:
            assert clone.json("status")["problems"] == []
