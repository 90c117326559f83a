"""What comes together is one step: one write, one frame for each peer, one entry of the feed, and what it means one by one."""

from __future__ import annotations

import pytest
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.api.requests import AcquireLease, ListLeases, ReleaseLease
from sudocode_coordination.core.facts import Notify, Say
from sudocode_coordination.core.io import DiskFailed, Effect, FrameReceived, Input, Persist, Reply, RequestReceived, Send, Ticked
from sudocode_coordination.core.partner import Partner
from sudocode_coordination.core.step import Step
from sudocode_coordination.core.wire import (
    Ack,
    Claim,
    ClaimBody,
    End,
    Envelope,
    Envelopes,
    Heads,
    WireMessage,
    decode_frame,
    encode_frame,
)
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.identity import SimKeyring

COUNT = 10
F = Resource("file", "f")


def bench() -> NodeBench:
    made = NodeBench()
    made.reads(ann=ANN, ben=BEN)
    made.connects(ANN)
    made.connects(BEN)
    return made


def together(node: NodeBench, *inputs: Input) -> list[Effect]:
    step = node.node.handle(inputs[0], node.now, iter(inputs[1:]))
    node.effects += step
    return step


def requests(count: int = COUNT) -> list[Input]:
    return [
        RequestReceived(client=1, request_id=100 + n, request=AcquireLease(resources=(Resource("file", f"{n}.py"),)))
        for n in range(count)
    ]


def acks(key: SimKeyring, step: list[Effect]) -> FrameReceived:
    claims = [m for e in step if isinstance(e, Send) and e.peer == key.peer_id for m in decode_frame(e.frame)]
    answers: list[WireMessage] = [Ack(id=claim.claim.id, round=claim.round) for claim in claims if isinstance(claim, Claim)]
    assert len(answers) == len(claims) == COUNT
    return FrameReceived(peer=key.peer_id, frame=encode_frame(answers))


def kinds(step: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in step if isinstance(effect, Persist | Send | Reply)]


def test_a_burst_of_requests_is_asked_with_one_frame_for_each_peer_and_granted_in_one_envelope() -> None:
    node = bench()
    asked = together(node, *requests())
    assert kinds(asked) == ["Send", "Send"]
    granted = together(node, acks(ANN, asked), acks(BEN, asked))
    assert kinds(granted) == ["Persist", "Send", "Send"] + ["Reply"] * COUNT
    (frame,) = [e.frame for e in granted if isinstance(e, Send) and e.peer == ANN.peer_id]
    (envelopes,) = decode_frame(frame)
    assert isinstance(envelopes, Envelopes)
    assert len(envelopes.envelopes) == 1
    assert len(node.asks(ListLeases())) == COUNT


def test_many_claims_are_noted_with_one_write_and_answered_with_one_frame() -> None:
    node = bench()
    frames: list[Input] = []
    for key, name in ((ANN, "ann"), (BEN, "ben")):
        bodies = [
            ClaimBody(f"{key.peer_id}.1.{n}", name, (Resource("file", f"{name}{n}"),), "exclusive", 0, n, 60_000)
            for n in range(COUNT)
        ]
        frames += [
            FrameReceived(peer=key.peer_id, frame=encode_frame([Claim(claim=body, round=n, hold_ms=60_000)]))
            for n, body in enumerate(bodies)
        ]
    step = together(node, *frames)
    assert kinds(step) == ["Persist", "Send", "Send"]
    assert [len(decode_frame(e.frame)) for e in step if isinstance(e, Send)] == [COUNT, COUNT]


def test_one_by_one_and_together_come_to_the_same() -> None:
    one, all_ = bench(), bench()
    for given in requests():
        one.gives(given)
    asked = together(all_, *requests())
    for key in (ANN, BEN):
        one.gives(acks(key, [e for e in one.effects if isinstance(e, Send) and b"claim" in e.frame]))
    together(all_, acks(ANN, asked), acks(BEN, asked))
    assert [(lease.resources, lease.state, lease.grade) for lease in one.asks(ListLeases())] == [
        (lease.resources, lease.state, lease.grade) for lease in all_.asks(ListLeases())
    ]


def test_a_disk_that_fails_takes_back_all_that_one_step_granted() -> None:
    node = bench()
    asked = together(node, *requests())
    together(node, acks(ANN, asked), acks(BEN, asked))
    node.gives(DiskFailed(reason="full"))
    assert node.asks(ListLeases()) == []
    assert len({m.id for m in node.said(ANN) if isinstance(m, End)}) == COUNT


def test_nothing_is_granted_in_the_step_that_handles_a_failed_disk() -> None:
    """Its writes may fail as well: then whoever was granted it has had an error, and held it for ever."""
    node = NodeBench(partition_policy="open")
    node.puts(AcquireLease(resources=(F,), agent="one"))
    second, third = (node.puts(AcquireLease(resources=(F,), wait_ms=0, agent=agent)) for agent in ("two", "three"))
    node.puts(ReleaseLease(resources=(F,), agent="one"))
    assert node.answer(second) is not None
    node.gives(DiskFailed(reason="full"))
    assert [(h.body.agent, h.granted) for h in node.node.leases.holdings()] == [("three", False)]
    assert node.node.deadline() == node.instant, "it is decided at once, in a step of its own"
    node.gives(Ticked(late_ms=0))
    assert node.answer(third) is not None
    node.gives(DiskFailed(reason="full"))
    assert node.node.leases.holdings() == []


def test_who_breaks_a_rule_is_heard_no_more_in_the_same_step() -> None:
    node = bench()
    body = ClaimBody(f"{BEN.peer_id}.1.1", "ben", (Resource("file", "x"),), "exclusive", 0, 1, 60_000)
    forged = FrameReceived(peer=ANN.peer_id, frame=encode_frame([Claim(claim=body, round=1, hold_ms=60_000)]))
    own = ClaimBody(f"{ANN.peer_id}.1.1", "ann", (Resource("file", "y"),), "exclusive", 0, 1, 60_000)
    step = together(node, forged, FrameReceived(peer=ANN.peer_id, frame=encode_frame([Claim(claim=own, round=1, hold_ms=60_000)])))
    assert kinds(step) == []


# --- where what is published goes -------------------------------------------------------------------------------------------


def said(step: Step) -> list[str]:
    return [type(m).__name__ for e in step.finish() if isinstance(e, Send) for m in decode_frame(e.frame)]


def envelopes(seq: int) -> Say:
    return Say(peer="p", message=Envelopes(envelopes=(Envelope("p", 1, seq, 0, b"u", b"s"),)))


def test_what_is_published_goes_before_what_tells_of_it_and_behind_what_went_before() -> None:
    step = Step()
    step.say("p", Heads())
    step.publish_here()
    step.say("p", End(id="c"))
    step.publish_here()
    step.publish([envelopes(1), envelopes(2)])
    assert said(step) == ["Heads", "Envelopes", "Envelopes", "End"]


def test_a_feed_goes_out_in_its_order() -> None:
    step = Step()
    step.publish_here()
    step.say("p", envelopes(1).message)
    step.publish([envelopes(2)])
    (frame,) = [e.frame for e in step.finish() if isinstance(e, Send)]
    assert [m.envelopes[0].seq for m in decode_frame(frame) if isinstance(m, Envelopes)] == [1, 2]


def test_nothing_else_is_published() -> None:
    with pytest.raises(TypeError, match="Notify"):
        Step().publish([Notify(type="lease-lost", data={})])


def test_places_in_a_feed_only_grow() -> None:
    partner = Partner()
    partner.got("a", (2, 3))
    partner.got("a", (1, 9))
    assert partner.has == {"a": (2, 3)}
