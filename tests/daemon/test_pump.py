"""The pump: order of effects, failing disks, ticks, floods, and a node that raises."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.daemon.doubles import HandClock, Log, ScriptedNode

from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.api.requests import GetStatus
from sudocode_coordination.core.io import (
    BranchPublishFailed,
    BuildTable,
    DiskContents,
    DiskFailed,
    Effect,
    FrameReceived,
    Gossip,
    GossipReceived,
    Input,
    Listening,
    PeerDisconnected,
    Persist,
    Publish,
    ReadTable,
    Reply,
    RequestReceived,
    Send,
    Started,
    Stopped,
    StopRequested,
    StoredValue,
    SwapTable,
    TableSwapFailed,
    Ticked,
)
from sudocode_coordination.daemon import pump as pump_module
from sudocode_coordination.daemon.journal import Entry, Header, Journal, read_journal
from sudocode_coordination.daemon.pump import CoreNode, NodeCrashed, Pump
from sudocode_coordination.model import Now

WRITE = Persist(operations=(StoredValue(space="meta", key="k", data=b"v"),))
REQUEST = RequestReceived(client=1, request_id=1, request=GetStatus())


def pump_of(node: CoreNode, log: Log, clock: HandClock | BootClock | None = None, journal: Journal | None = None) -> Pump:
    return Pump(
        node,
        clock or HandClock(),
        *[log] * 6,
        emit=lambda event: log.calls.append(("emit", event)),
        reply=lambda reply: log.calls.append(("reply", reply)),
        journal=journal,
    )


def answering(answers: dict[type, list[Effect]]) -> Callable[[Input, Now], list[Effect]]:
    return lambda given, _now: [Stopped()] if isinstance(given, StopRequested) else answers.get(type(given), [])


def run(pump: Pump, *inputs: Input) -> None:
    async def main() -> None:
        with trio.fail_after(10):
            for given in inputs:
                pump.deliver(given)
            pump.deliver(StopRequested())
            await pump.run()

    trio.run(main)


def test_effects_are_carried_out_in_order() -> None:
    log = Log()
    reply = Reply(client=1, request_id=1, value=3)
    effects: list[Effect] = [WRITE, Send(peer="p", frame=b"f"), reply, Gossip(topic="t", data=b"g")]
    run(pump_of(ScriptedNode(answering({RequestReceived: effects})), log), REQUEST)
    expected = [("write", WRITE.operations), ("send", "p", b"f"), ("reply", reply), ("gossip", "t", b"g")]
    assert log.calls == expected


def test_nothing_is_published_that_is_not_on_disk() -> None:
    log = Log()
    log.broken = "no space left"
    effects: list[Effect] = [
        Send(peer="p", frame=b"before"),
        WRITE,
        Send(peer="p", frame=b"after"),
        Gossip(topic="t", data=b"after"),
        Publish(ticket=7, changes={"a": b"after"}),
        Publish(ticket=8, changes={"a": None}, final=True),
        SwapTable(ticket=9, parent=None, changes={}, nonce="n", wall_ms=0),
        BuildTable(ticket=10, parent=None, changes={}, nonce="n", wall_ms=0),
        Reply(client=1, request_id=1, value="kept"),
    ]

    def script(given: Input, _now: Now) -> list[Effect]:
        if isinstance(given, RequestReceived):
            return effects
        return [Stopped()] if given == TableSwapFailed(ticket=10, kind="unknown", reason="no space left") else []

    node = ScriptedNode(script)
    run(pump_of(node, log), REQUEST)
    assert [call for call in log.calls if call[0] != "reply"] == [("send", "p", b"before"), ("publish", 8, {"a": None}, True)]
    (reply,) = [call[1] for call in log.calls if call[0] == "reply"]
    assert reply.error.code == "storage"
    assert "no space left" in reply.error.message
    assert DiskFailed(reason="no space left") in node.got
    assert BranchPublishFailed(ticket=7, reason="no space left") in node.got
    assert [given for given in node.got if isinstance(given, TableSwapFailed)] == [
        TableSwapFailed(ticket=ticket, kind="unknown", reason="no space left") for ticket in (9, 10)
    ]


def test_the_table_gets_what_the_node_wants_of_it() -> None:
    log = Log()
    swap = SwapTable(ticket=1, parent=None, changes={"a": b"1"}, nonce="n", wall_ms=0)
    build = BuildTable(ticket=2, parent="p", changes={"a": None}, nonce="n", wall_ms=0)
    run(pump_of(ScriptedNode(answering({RequestReceived: [ReadTable(whole=True), swap, build]})), log), REQUEST)
    assert log.calls == [("read_table", True), ("swap_table", swap), ("build_table", build)]


def test_a_disk_that_fails_while_its_failure_is_handled_ends_nothing() -> None:
    log = Log()
    log.broken = "gone"
    node = ScriptedNode(answering({RequestReceived: [WRITE], DiskFailed: [WRITE]}))
    run(pump_of(node, log), REQUEST, Listening(addresses=()), REQUEST)
    assert node.got.count(DiskFailed(reason="gone")) == 2


def test_ticks_come_when_due_and_say_how_late() -> None:
    clock, log = HandClock(), Log()
    node = ScriptedNode(lambda given, _now: [Stopped()] if isinstance(given, Ticked) else [])
    node.due = 900

    async def main() -> None:
        with trio.fail_after(10):
            await pump_of(node, log, clock).run()

    trio.run(main)
    assert node.got == [Ticked(late_ms=100)]


def test_it_sleeps_until_the_deadline_and_wakes_for_inputs() -> None:
    clock = BootClock()
    seen: list[tuple[Input, int]] = []

    def script(given: Input, now: Now) -> list[Effect]:
        seen.append((given, now.instant))
        node.due = None
        return [Stopped()] if isinstance(given, Listening) else []

    node = ScriptedNode(script)
    node.due = start = clock.instant() + 30

    async def main() -> None:
        pump = pump_of(node, Log(), clock)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(10):
                nursery.start_soon(pump.run)
                while not seen:
                    await trio.sleep(0.001)
                pump.deliver(Listening(addresses=()))

    trio.run(main)
    assert isinstance(seen[0][0], Ticked)
    assert seen[0][1] >= start
    assert isinstance(seen[1][0], Listening)


def test_a_deadline_that_never_moves_starves_nobody() -> None:
    node = ScriptedNode(answering({}))
    node.due = 0
    run(pump_of(node, Log()), Listening(addresses=()))
    assert [type(given) for given in node.got] == [Ticked, Listening, StopRequested]


def test_a_peer_that_floods_is_cut_off_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "MAX_PEER_FRAMES", 3)
    log = Log()
    node = ScriptedNode(answering({}))
    pump = pump_of(node, log)
    for n in range(10):
        pump.deliver(FrameReceived(peer="loud", frame=b"%d" % n))
    pump.deliver(FrameReceived(peer="calm", frame=b"x"))
    assert log.calls == [("hang_up", "loud", "sent faster than could be handled")]
    pump.deliver(PeerDisconnected(peer="loud", reason="hung up"))
    run(pump, FrameReceived(peer="calm", frame=b"y"))
    assert [given.frame for given in node.got if isinstance(given, FrameReceived)] == [b"0", b"1", b"2", b"x", b"y"]
    pump.deliver(FrameReceived(peer="loud", frame=b"back"))
    assert log.calls == [("hang_up", "loud", "sent faster than could be handled")]


def test_bytes_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "MAX_PEER_BYTES", 100)
    monkeypatch.setattr(pump_module, "MAX_FRAME_BYTES", 150)
    log = Log()
    pump = pump_of(ScriptedNode(answering({})), log)
    for peer, size in (("a", 100), ("a", 1), ("b", 50), ("c", 1)):
        pump.deliver(FrameReceived(peer=peer, frame=bytes(size)))
    assert [call[1] for call in log.calls] == ["a", "c"]


def test_gossip_that_does_not_fit_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "MAX_HINTS", 2)
    node = ScriptedNode(answering({}))
    pump = pump_of(node, Log())
    run(pump, *(GossipReceived(topic="t", data=b"%d" % n) for n in range(5)))
    assert len([given for given in node.got if isinstance(given, GossipReceived)]) == 2
    assert pump.dropped_hints == 3


def test_requests_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "MAX_QUEUED_REQUESTS", 2)
    pump = pump_of(ScriptedNode(answering({})), Log())
    assert [pump.request(REQUEST) for _ in range(3)] == [True, True, False]
    run(pump)
    assert pump.request(REQUEST)


class Panic(BaseException):
    """Like pycrdt's: no `Exception`."""


@pytest.mark.parametrize("error", [ValueError("bad"), Panic("rust")])
def test_a_node_that_raises_ends_the_pump_and_leaves_a_journal(short_tmp: Path, error: BaseException) -> None:
    def script(given: Input, _now: Now) -> list[Effect]:
        if isinstance(given, GossipReceived):
            raise error
        return []

    journal = Journal(short_tmp, Header(version="1", peer_id="p", config={}))
    pump = pump_of(ScriptedNode(script), Log(), journal=journal)
    with pytest.raises(NodeCrashed, match="GossipReceived") as caught:
        run(pump, Started(contents=DiskContents(), seed=5), GossipReceived(topic="t", data=b"evil"))
    assert caught.value.__cause__ is error
    journal.close()
    header, started, last = read_journal(journal.path)
    assert isinstance(header, Header)
    assert isinstance(started, Entry)
    assert started.input == Started(contents=DiskContents(), seed=5)
    assert isinstance(last, Entry)
    assert last.input == GossipReceived(topic="t", data=b"evil")


def test_what_has_come_together_is_one_step(short_tmp: Path) -> None:
    node = ScriptedNode(answering({}))
    journal = Journal(short_tmp, Header(version="1", peer_id="p", config={}))
    frames = [FrameReceived(peer=peer, frame=b"x") for peer in "abab"]
    run(pump_of(node, Log(), journal=journal), frames[0], REQUEST, *frames[1:], Listening(addresses=()), frames[0])
    assert [len(step) for step in node.steps] == [5, 2, 1]
    journal.flush()
    journal.close()
    entries = [entry for entry in read_journal(journal.path) if isinstance(entry, Entry)]
    assert [entry.together for entry in entries] == [False, True, True, True, True, False, True, False]


def test_a_step_is_no_larger_than_a_frame_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "BATCH_BYTES", 100)
    monkeypatch.setattr(pump_module, "BATCH", 3)
    node = ScriptedNode(answering({}))
    run(pump_of(node, Log()), *(FrameReceived(peer="p", frame=bytes(size)) for size in (90, 20, 80, 200, 1, 1, 1, 1)))
    assert [[len(one.frame) for one in step if isinstance(one, FrameReceived)] for step in node.steps] == [
        [90],
        [20, 80],
        [200],
        [1, 1, 1],
        [1],
        [],
    ]


def test_each_peer_is_charged_for_what_it_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "CPU_BURST_S", 0.02)
    log = Log()

    def script(given: Input, _now: Now) -> list[Effect]:
        began = time.thread_time()
        while isinstance(given, FrameReceived) and given.frame == b"costly" and time.thread_time() - began < 0.06:
            pass
        return [Stopped()] if isinstance(given, StopRequested) else []

    run(
        pump_of(ScriptedNode(script), log), *(FrameReceived(peer="ab"[n % 2], frame=[b"costly", b"cheap"][n % 2]) for n in range(8))
    )
    assert [call[:2] for call in log.calls] == [("hang_up", "a")]
