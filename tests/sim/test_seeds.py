"""Whole histories of a simulated swarm: no invariant is ever violated, and a seed is the same history everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sudocode_coordination.model import Resource
from sudocode_coordination.sim.__main__ import main, outcomes
from sudocode_coordination.sim.checkers import Violation
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.plan import Plan
from sudocode_coordination.sim.scenario import Run
from sudocode_coordination.sim.watch import Watch
from sudocode_coordination.sim.world import SimNode


def _sim(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sudocode_coordination.sim", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        timeout=900,
        check=False,
    )


SEEDS = 500
PART = 100


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_seeds_without_a_violation(first: int) -> None:
    """Five hundred, in parts that the test workers share."""
    found = list(outcomes(range(first, first + PART), 1))
    assert [f"seed {outcome.seed}: {outcome.violation}" for outcome in found if outcome.violation] == []
    # Histories in which nothing is asked for, or nothing is in the way, would prove nothing.
    assert sum(outcome.granted for outcome in found) > 15 * PART
    assert sum(outcome.denied for outcome in found) > 5 * PART


KEPT = (
    13,
    232,
    2_178,
    3_291,
    9_257,
    12_898,
    14_172,
    14_524,
    15_146,
    15_501,
    15_762,
    16_017,
    17_240,
    18_919,
    20_311,
    20_982,
    26_411,
    30_971,
    41_982,
)


@pytest.mark.parametrize("seed", KEPT)
def test_histories_that_once_failed(seed: int) -> None:
    """By a fault of the core: who is connected and does not count was not waited for (26411). Or of the watch: who takes a lease
    over may give up in the step in which it is heard (2178); a lease may be granted in a step that then meets its rival (18919), or
    while its agent gives up waiting (41982)."""
    assert Run(seed, words=False).run().violation is None


CHAIN = Plan(
    resources=tuple(Resource("file", path) for path in ("a/", "a/x", "[a-b]/x", "b")),
    faults=NetworkFaults(latency_ms=(1, 40), gossip_loss=0.3, gossip_duplication=0.1, gossip_reordering=0.3),
    config=(
        ("lease_ttl_ms", 16_000),
        ("max_lease_ttl_ms", 16_000),
        ("gone_grace_ms", 8_000),
        ("peer_discovery_interval_ms", 15_000),
        ("record_ttl_ms", 60_000),
        ("preempt_grace_ms", 1_500),
        ("strict_lease_ttl_ms", 4_000),
    ),
    misfortunes=(
        "island",
        "refusing",
        "kill",
        "freeze",
        "restarts",
        "remote",
        "own-remote",
        "client",
        "stop",
        "clock",
        "drift",
        "power",
        "disk",
    ),
    how_many=(4, 8),
    hold_ms=(30_000, 60_000),
    pause_ms=(100, 5_000),
    several=0.5,
    shared=0.4,
    urgent=0.5,
    nested=0.4,
    strict=0.8,
    guests=1.0,
    gather_ms=5,
    patient=True,
)


def test_of_three_in_a_row_two_give_way_when_they_meet() -> None:
    """A strict lease goes before a provisional one, and that before another: both of these end. That the second gave way to the
    first is heard in the step in which the third gives way to the second; this was taken for giving way to nobody."""
    ran = Run(7_147, CHAIN, words=True)
    outcome = ran.run()
    assert outcome.violation is None
    lost = [word.split()[-1] for word in outcome.words if word.startswith("48") and "lease-lost" in word]
    assert lost == ["n2-guest", "n1-guest"]


@pytest.mark.parametrize("seed", [6_565, 24_576])
def test_nobody_waits_for_a_lease_that_a_failing_disk_has_left_to_nobody(seed: int) -> None:
    """It was granted in the step that handles the failure, whose writes failed as well: its agent had heard of an error."""
    assert Run(seed).run().violation is None


def test_who_asks_a_process_that_ends_before_it_takes_that_in_has_an_answer() -> None:
    assert Run(25_594).run().violation is None


def test_who_needs_a_majority_may_wait_for_the_next_look_at_the_branch() -> None:
    """The remote was away before: what is tried in vain is tried ever more rarely."""
    assert Run(3_994).run().violation is None


def test_what_many_seeds_came_to_is_told() -> None:
    ran = _sim("--first", "3", "--seeds", "4", "--jobs", "2", "--json")
    summary = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert (summary["seeds"], summary["violations"], summary["failed"]) == (4, 0, [])
    assert summary["granted"] > 0


def test_a_violation_is_told_with_the_last_steps_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deaf(_: Watch, node: SimNode) -> None:
        raise Violation(f"{node.name} stepped")

    monkeypatch.setattr(Watch, "stepped", deaf)
    assert main(["--first", "7", "--seeds", "1"]) == 1
    told = capsys.readouterr().out
    assert "stepped" in told
    assert "replay: coord sim --seed 7" in told
    assert "1 violations" in told


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_two_thousand_more_seeds() -> None:
    assert [outcome for outcome in outcomes(range(SEEDS, SEEDS + 2_000), 2) if outcome.violation] == []


def test_the_same_seed_is_the_same_history_whatever_the_hash_seed() -> None:
    first, second = (json.loads(_sim("--seed", "5", "--json", hash_seed=hashes).stdout) for hashes in ("1", "4242"))
    assert first["trace"] == second["trace"]
    assert first == second
    assert first["events"] > 50


def test_other_seeds_are_other_histories() -> None:
    assert len({Run(seed).run().digest for seed in (1, 2, 3)}) == 3


def test_a_replay_tells_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "4"]) == 0
    told = capsys.readouterr().out
    assert "lease-acquired" in told
    assert told.endswith("no violation\n")


def test_impossible_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--seeds", "0"])
    assert refused.value.code == 2
    assert "at least 1" in capsys.readouterr().err
