"""Whole histories of a simulated swarm: no invariant is ever violated, and a seed is the same history everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sudocode_coordination.sim.__main__ import main, outcomes
from sudocode_coordination.sim.checkers import Violation
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
