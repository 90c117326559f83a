"""Mallory finds messages that cost ann more than they cost mallory. What is known to be costly weighs more; and whatever it is, the
processor's time that one peer's frames take is counted."""

from __future__ import annotations

import time

import pytest
from tests.attacks.siege import Siege
from tests.daemon.doubles import HandClock, Log, ScriptedNode
from tests.daemon.test_pump import pump_of, run

from sudocode_coordination.core.conduct import BURST_WORK, Bucket, work_of
from sudocode_coordination.core.io import Effect, FrameReceived, Input, PeerMisbehaved, Stopped, StopRequested
from sudocode_coordination.core.wire import Claim, ClaimBody, End
from sudocode_coordination.daemon import pump as pump_module
from sudocode_coordination.model import Now, Resource


def costly_claim(peer: str, number: int) -> Claim:
    """Patterns of which each has to be compared with all the others."""
    patterns = tuple(Resource("file", f"**/*{number}*{n}*") for n in range(32))
    return Claim(claim=ClaimBody(f"{peer}.1.{number}", "mallory", patterns, "exclusive", 0, 1, 60_000), round=1, hold_ms=60_000)


def test_patterns_claimed_and_given_back_again_and_again() -> None:
    siege = Siege()
    claims = 0
    while not siege.is_out():
        claims += 1
        siege.says(costly_claim(siege.mallory, claims), End(id=f"{siege.mallory}.1.{claims}"))
    assert claims == BURST_WORK // work_of(costly_claim(siege.mallory, 1)) + 1 < 25
    siege.is_unharmed()


def burning(seconds: float, clock: HandClock | None = None) -> ScriptedNode:
    """A node that mallory's frames cost as much; on the clock, a second passes with each."""

    def script(given: Input, now: Now) -> list[Effect]:
        del now
        if isinstance(given, StopRequested):
            return [Stopped()]
        if clock is not None:
            clock.at += 1_000
        if isinstance(given, FrameReceived) and given.peer == "mallory":
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                pass
        return []

    return ScriptedNode(script)


def test_who_takes_too_much_of_the_processor_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "CPU_BURST_S", 0.1)
    log, node = Log(), burning(0.03)
    pump = pump_of(node, log)
    run(pump, *(FrameReceived(peer=peer, frame=b"%d" % n) for n in range(10) for peer in ("mallory", "ben")))
    assert ("hang_up", "mallory", pump_module.TOO_COSTLY) in log.calls
    assert [call[1] for call in log.calls if call[0] == "hang_up"] == ["mallory"]  # once, and nobody else
    told = [given for given in (*node.got, *pump._inbox) if isinstance(given, PeerMisbehaved)]
    assert told == [PeerMisbehaved(peer="mallory", reason=pump_module.TOO_COSTLY)]


def test_as_much_as_a_share_of_it_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "CPU_BURST_S", 0.1)
    monkeypatch.setattr(pump_module, "BATCH", 1)  # a step is one moment
    log, clock = Log(), HandClock()
    run(pump_of(burning(0.02, clock), log, clock), *(FrameReceived(peer="mallory", frame=b"%d" % n) for n in range(20)))
    assert log.calls == []


def test_the_share_is_counted_for_a_bounded_number_of_peers() -> None:
    pump = pump_of(burning(0), Log())
    for n in range(pump_module.MAX_COUNTED_PEERS * 2):
        pump._charge(f"peer-{n}", 0.0, Now(n, n))
    assert len(pump._cpu) == pump_module.MAX_COUNTED_PEERS
    assert all(isinstance(spent, Bucket) for spent in pump._cpu.values())
