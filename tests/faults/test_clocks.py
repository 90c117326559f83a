"""Wall clocks that jump, daemons that freeze, links that flap: nothing that is decided depends on any of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import psutil
import pytest
from tests.e2e.clones import LOOPBACK, Clone, connected, repository, wait_for
from tests.e2e.recorder import bench
from tests.e2e.swarm import have_met, one_holder, swarm

ROOT: Final = Path(__file__).resolve().parents[2]
OFTEN: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s")
FLAPPING: Final = ("--heartbeat", "500ms", "--discovery-interval", "5s", "--lease-ttl", "10s", "--set", "max_lease_ttl_ms=10000")
"""Leases are renewed many times meanwhile, and as quorums: for that the branch must have been read within twice the interval, which
a busy machine does not do each second."""
FREEZE_S: Final = 60.0
DAY_MS: Final = 24 * 3_600_000
WALL_READERS: Final = {
    "adapters/clock.py",  # the node's only clock
    "adapters/libp2p_circuits.py",  # until when a reservation holds, as the specification of relays has it told
    "adapters/libp2p_faults.py",  # ids of gossip messages, which only have to differ
    "adapters/libp2p_relay.py",  # the same, as it is told
    "cli/branch.py",  # how old a record is, for people
    "cli/doctor.py",
    "cli/drafting.py",  # when a committed issue was updated
    "cli/render.py",
    "daemon/lifecycle.py",  # since when it runs, for people
    "views/watch.py",  # what time it is, for people
    "views/web/feed.py",
}
"""Files of the package that read the wall clock."""


def test_the_wall_clock_is_read_where_it_decides_nothing() -> None:
    reads = re.compile(r"\btime\.time(_ns)?\(|datetime\.now\(|CLOCK_REALTIME|utcnow\(")
    package = ROOT / "src" / "sudocode_coordination"
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if reads.search(path.read_text("utf-8"))}
    assert found <= WALL_READERS


@contextmanager
def with_odd_clock(clone: Clone, offset: Path) -> Iterator[None]:
    """Its daemon, with a wall clock that goes by the file."""
    config = {
        "agent_id": clone.name,
        "listen_addresses": [LOOPBACK],
        "heartbeat_interval_ms": 500,
        "peer_discovery_interval_ms": 1000,
    }
    command = [sys.executable, "-m", "tests.faults.odd_clock", str(offset), "--repository", str(clone.folder)]
    process = subprocess.Popen([*command, "--config", json.dumps(config)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for("it is active", lambda: (clone.state_dir / "daemon.json").exists() or process.poll() is not None, 60)
        yield
    finally:
        process.kill()
        process.wait()
        (clone.state_dir / "daemon.json").unlink(missing_ok=True)


def test_a_wall_clock_that_jumps_forwards_and_backwards_costs_nothing(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    with repository("ann", "bob") as (ann, bob):
        bob.start(*OFTEN)
        with with_odd_clock(ann, offset):
            wait_for("they meet", lambda: connected(ann, bob), 60)
            ann.coord("lease", "src/auth.py")
            for number, days in enumerate((1, -2, 7)):
                offset.write_text(str(days * DAY_MS))
                lease = wait_for("all goes on", lambda n=number: ann.json("lease", f"{n}.py"))["lease"]  # type: ignore[misc]
                assert lease["grade"] == "quorum"
                assert bob.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "ann"
                bob.coord("lease", f"of-bob-{number}.py")
                ann.coord("issue", "update", "1", "--title", f"title {number}")
                wait_for("bob sees it", lambda n=number: f"title {n}" in bob.coord("issue", "show").stdout)  # type: ignore[misc]
                assert connected(ann, bob)
            assert ann.json("status")["problems"] == bob.json("status")["problems"] == []
            assert {len(ann.json("leases")["leases"]), len(bob.json("leases")["leases"])} == {4, 3}
            assert ann.events("lease-expired") == ann.events("lease-lost") == ann.events("peer-disconnected") == []
        # It comes back with a clock far behind what it wrote: what it says now is newer all the same.
        offset.write_text(str(-30 * DAY_MS))
        with with_odd_clock(ann, offset):
            wait_for("they meet again", lambda: connected(ann, bob), 60)
            ann.coord("issue", "update", "1", "--title", "from the past")
            wait_for("bob sees it", lambda: "from the past" in bob.coord("issue", "show").stdout)
            wait_for("what it held is free", lambda: bob.coord("lease", "src/auth.py", expect=None).returncode == 0)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_freeze_of_a_minute() -> None:
    with swarm("ada", "bob", "cyd") as members:
        ada, bob, cyd = members
        assert ada.me.acquire_lease("src/auth.py")
        pid = ada.clone.pid
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for("the others notice", lambda: "ada" not in bob.direct(), 100)
            assert bob.me.acquire_lease("free.py"), "two of three go on"
            assert not bob.me.acquire_lease("src/auth.py"), "its lease lasts five minutes"
            time.sleep(max(0.0, began + FREEZE_S - time.monotonic()))  # the fault itself
            late = bob.me.acquire_lease("src/auth.py")
            assert late.lease is not None
            assert late.lease.grade == "provisional", "after the grace it may be taken, and who takes it is told that it may be two"
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for("they meet again", lambda: have_met(members), 100)
        wait_for("all see one holder", lambda: all(one_holder(member, "src/auth.py", "ada") for member in members), 20)
        assert [event.data["reason"] for event in bob.events("lease-lost")] == ["lost-conflict"], "quorum goes before provisional"
        assert ada.holders("free.py") == ["bob"]
        assert cyd.me.acquire_lease("after.py")
        assert all(member.me.status().problems == () for member in members)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_link_that_flaps() -> None:
    random = Random(5)
    with bench("ada", "bob", "cyd", settings=FLAPPING) as made:
        daemons = [psutil.Process(made.clones[name].pid) for name in made.names]
        before = [(daemon.num_fds(), daemon.num_threads()) for daemon in daemons]

        def counts_in_full() -> bool:
            """Until then ada depends on whoever was there first."""
            made.net.cut("ada", "bob")
            with made.client("ada") as ada:
                lease = ada.acquire_lease("first", wait_ms=1_000).lease
                ada.release_lease("first")
            made.net.heal("ada", "bob")
            return lease is not None and lease.grade == "quorum"

        wait_for("two of three are enough, also without the eldest", counts_in_full, 120)
        for number in range(25):
            made.net.cut("ada", "bob")
            time.sleep(random.choice((0.1, 0.5, 1.5, 4.0)))  # the fault itself
            made.net.heal("ada", "bob")
            time.sleep(random.choice((0.1, 0.5, 1.5)))
            with made.client("ada") as ada, made.client("cyd") as cyd:
                assert cyd.acquire_lease(f"cyd-{number}", wait_ms=20_000)
                assert ada.acquire_lease(f"ada-{number}", wait_ms=20_000)
        made.meet(made.all_pairs())

        names = {f"{name}-{number}" for name in ("ada", "cyd") for number in range(25)}

        def seen(by: str) -> set[str]:
            with made.client(by) as client:
                return {lease.resources[0].path for lease in client.leases(everyone=True) if lease.state == "granted"}

        for name in made.names:
            wait_for(f"{name} sees all", lambda name=name: seen(name) == names, 40)  # type: ignore[misc]
            lost = {kind: [told.resources for told in made.told(name, kind)] for kind in ("lease-lost", "lease-expired")}
            assert not any(lost.values()), lost
        for daemon, (descriptors, threads) in zip(daemons, before, strict=True):
            assert daemon.num_fds() <= descriptors + 8
            assert daemon.num_threads() <= threads + 4
