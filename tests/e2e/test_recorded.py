"""Four daemons at work, with kills, stops, cut links and a lost remote; all of it recorded and judged (`checker.py`)."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from tests.e2e.checker import LATE_MS, History, Verdict, check
from tests.e2e.clones import LIMIT_S, wait_for
from tests.e2e.recorder import NOTICED_S, TTL_S, Bench, bench
from tests.e2e.workload import Plan, busy

from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.model import Resource

NAMES = ("ada", "bob", "cyd", "dan")
ACROSS = [("ada", "cyd"), ("ada", "dan"), ("bob", "cyd"), ("bob", "dan")]
"""Two and two: nobody has a majority."""


def judge(made: Bench, plan: Plan) -> tuple[History, Verdict]:
    """When all is done, stop everything, and hold it against the rules."""
    wait_for("enough operations", lambda: made.operations >= plan.operations, LIMIT_S)
    history = made.history()
    verdict = check(history)
    report(summary(history, verdict))
    if verdict.violations:
        kept = Path(tempfile.mkdtemp(prefix="history-")) / "history.json"
        kept.write_bytes(msgspec.json.encode(history))
        raise AssertionError("\n".join([f"{kept} has the whole history", *map(str, verdict.violations[:20])]))
    return history, verdict


def report(text: str) -> None:
    """Figures of the run, shown with `pytest -s`."""
    sys.stdout.write(f"\n{text}\n")


def summary(history: History, verdict: Verdict) -> str:
    """For people."""
    grades = Counter(span.grade for span in verdict.spans)
    ends = Counter(span.by for span in verdict.spans)
    faults = Counter(fault.what for fault in history.faults)
    return (
        f"{len(history.calls)} calls, {verdict.grants} grants, {verdict.denials} denials, {verdict.overlaps} allowed overlaps, "
        f"{len(history.chain)} commits, spans by grade {dict(grades)}, by end {dict(ends)}, faults {dict(faults)}"
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_short_run() -> None:
    plan = Plan(operations=120, strict=0.4)
    with bench(*NAMES) as made:
        busy(made, plan)
        made.kill("bob")
        made.spawn(lambda: made.cut(ACROSS, NOTICED_S), "cut", "fault")
        made.stop("dan", TTL_S + 1)
        made.lose_remote(4.0)
        history, verdict = judge(made, plan)
    assert {fault.what for fault in history.faults} == {"killed", "kill", "stop", "cut", "remote"}
    assert {"strict", "quorum"} <= {span.grade for span in verdict.spans}


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_thousand_operations() -> None:
    plan = Plan(operations=1_000, strict=0.3)
    seed = int(os.environ.get("RECORDED_SEED", "7"))
    rng = Random(seed)
    with bench(*NAMES) as made:
        busy(made, plan, seed=seed)
        while made.operations < plan.operations:
            one, other, third = rng.sample(NAMES, 3)
            match rng.choice(("kill", "stop", "pair", "alone", "halves", "remote")):
                case "kill":
                    made.kill(one)
                case "stop":
                    made.stop(one, rng.uniform(0.5, TTL_S + 2))
                case "pair":
                    made.cut([(one, other)], rng.uniform(1, NOTICED_S))
                case "alone":
                    made.spawn(lambda one=one: made.cut([(one, name) for name in NAMES if name != one], NOTICED_S), "cut", "fault")  # type: ignore[misc]
                    made.stop(other, TTL_S + 1)
                    made.kill(third)
                    made.join("fault")
                case "halves":
                    made.cut(ACROSS, NOTICED_S + 4)
                case _:
                    made.spawn(lambda: made.lose_remote(6.0), "remote", "fault")
                    made.kill(one)
            made.pause(rng.uniform(0, 3))
        history, verdict = judge(made, plan)
    assert len(history.calls) >= plan.operations
    assert verdict.grants > 100


@pytest.mark.timeout(120)
def test_planted_faults_are_found_in_a_real_run() -> None:
    """A daemon for which no other's claim counts, one that tells nobody what it has lost, and a table that nobody looks into."""
    planted = {"ada": "greedy", "bob": "blind+greedy", "cyd": "mute+greedy"}
    with bench("ada", "bob", "cyd", planted=planted) as made:
        with made.client("ada") as ada, made.client("bob") as bob, made.client("cyd") as cyd:
            assert ada.acquire_lease("one")
            assert cyd.acquire_lease("two")
            assert bob.acquire_lease("one"), "it takes what another has"
            three = AcquireLease(resources=(Resource("file", "three"),), strict=True)
            assert ada.call(three)
            assert bob.call(three)
            wait_for("ada has its renewal", lambda: made.told("ada", "lease-renewed"))
            made.stop("cyd", TTL_S + 1)
            assert cyd.leases() == ()
        made.join("fault")
        made.pause(LATE_MS / 1_000 + 0.5)  # until then it might have been told
        verdict = check(made.history())
    assert {"exclusion", "untold"} <= {violation.rule for violation in verdict.violations}
    texts = [violation.text for violation in verdict.violations if violation.rule == "exclusion"]
    assert any("on one" in text for text in texts)
    assert any("revision" in text for text in texts), "two in the table"


def test_links_without_namespaces() -> None:
    """Where no namespaces may be made, links are cut by proxies."""
    with bench("ada", "bob", proxies=True) as made, made.client("ada") as ada:
        assert ada.acquire_lease("before")
        made.net.cut("ada", "bob")
        assert not ada.acquire_lease("meanwhile", wait_ms=500), "bob's answer is missing, and nobody says that bob is gone"
        made.net.heal("ada", "bob")
        made.meet(made.all_pairs())
        assert ada.acquire_lease("after", wait_ms=20_000)
