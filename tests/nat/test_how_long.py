"""How long it takes behind two NATs, from the command that starts a daemon until its peer is reached: figures for docs/networks.md.

RUNS=10 pytest -m slow -n 0 -s tests/nat/test_how_long.py
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from typing import Final

import pytest
from tests.e2e.clones import Clone, repository, wait_for
from tests.nat.nets import internet
from tests.nat.test_behind_nat import PATIENCE_S, RELAY, start, two_nats

from sudocode_coordination.api.requests import ListPeers
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.errors import CoordinationError

RUNS: Final = int(os.environ.get("RUNS", "2"))
LOOK_S: Final = 0.02


def one_run() -> tuple[float, float, float]:
    """Seconds: from the command to a daemon that answers, from then to relayed, and from relayed to direct."""
    with internet() as net, repository("relay", "ann", "bob") as (relay, ann, bob):
        two_nats(net, symmetric=False)
        start(net, relay, f"/ip4/{RELAY}/tcp/4001", relay_service="true")
        start(net, ann)
        wait_for("ann can be reached through the relay", lambda: "p2p-circuit" in ann.coord("status").stdout, PATIENCE_S)
        began = time.monotonic()
        starting = threading.Thread(target=start, args=(net, bob))
        starting.start()
        seen: dict[str, float] = {}
        try:
            watch(bob, seen, began + 2 * PATIENCE_S)
        finally:
            starting.join()
        assert list(seen) == ["up", "relayed", "direct"], "none of the two can be reached by itself"
        return seen["up"] - began, seen["relayed"] - seen["up"], seen["direct"] - seen["relayed"]


def watch(clone: Clone, seen: dict[str, float], until: float) -> None:
    """When its daemon answered first, and when ann was relayed and direct to it."""
    while "direct" not in seen:
        assert time.monotonic() < until, f"got no further than {list(seen)}"
        time.sleep(LOOK_S)
        try:
            with Client.connect(clone.folder) as client:
                seen.setdefault("up", time.monotonic())
                while "direct" not in seen and time.monotonic() < until:
                    for peer in client.call(ListPeers()):
                        if peer.agent_id == "ann" and peer.connection in ("relayed", "direct"):
                            seen.setdefault(peer.connection, time.monotonic())
                    time.sleep(LOOK_S)
        except CoordinationError:
            continue  # not yet


@pytest.mark.slow
@pytest.mark.timeout(180 * RUNS)
def test_how_long_it_takes_from_the_start_to_a_punched_hole() -> None:
    runs = [one_run() for _ in range(RUNS)]
    lines = [f"of {RUNS} runs: min, median, max"]
    for what, times in zip(("command to daemon", "daemon to relayed", "relayed to direct"), zip(*runs, strict=True), strict=True):
        lines.append(f"{what}: {min(times):.2f}, {statistics.median(times):.2f}, {max(times):.2f} s")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
