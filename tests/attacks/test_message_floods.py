"""Mallory sends as much as the line takes. Bytes and work are counted by peer: who is over is dropped, and the others wait for
no longer than the burst that everyone is granted; and bursts as honest clones make them pass."""

from __future__ import annotations

import msgspec
import pytest
from tests.attacks.siege import Siege, beat
from tests.core.feeds import Pen

from sudocode_coordination.api.requests import AcquireLease, ListLeases
from sudocode_coordination.core import conduct
from sudocode_coordination.core.conduct import BURST_BYTES, BURST_WORK, Bucket, work_of
from sudocode_coordination.core.wire import (
    MAX_FRAME_BYTES,
    MAX_MESSAGES,
    Claim,
    ClaimBody,
    End,
    Envelopes,
    Heads,
    Renew,
    encode_frame,
)
from sudocode_coordination.model import Resource


def test_more_messages_than_anybody_has_to_say() -> None:
    siege = Siege()
    frame = encode_frame([beat(count=n) for n in range(MAX_MESSAGES)])
    frames = 0
    while not siege.is_out():
        siege.sends(frame)
        frames += 1
    assert frames == BURST_WORK // MAX_MESSAGES + 1
    assert "asks too much" in siege.reason
    assert "4000 messages and envelopes a second" in siege.reason
    siege.is_unharmed()


def test_more_bytes_than_anybody_has_to_say() -> None:
    siege = Siege()
    frame = msgspec.msgpack.encode([{"t": "song", "notes": bytes(MAX_FRAME_BYTES - 100)}])  # a type of message to come
    assert MAX_FRAME_BYTES - 100 < len(frame) <= MAX_FRAME_BYTES
    frames = 0
    while not siege.is_out():
        siege.sends(frame)
        frames += 1
    assert frames == BURST_BYTES // len(frame) + 1
    assert "sends too much" in siege.reason
    siege.is_unharmed()


def test_slow_enough_is_no_flood() -> None:
    siege = Siege()
    frame = encode_frame([beat(count=n) for n in range(1_000)])
    for _ in range(100):
        siege.sends(frame)
        siege.advance(1_000)
    assert siege.mallory in siege.ann.links


def test_a_new_connection_buys_nothing() -> None:
    siege = Siege()
    frame = encode_frame([beat(count=n) for n in range(MAX_MESSAGES)])
    while not siege.is_out():
        siege.sends(frame)
    assert not siege.connects()
    siege.advance(conduct.FIRST_BENCH_MS)
    assert siege.connects()
    siege.sends(frame)  # what five seconds have brought …
    siege.sends(frame)
    assert not siege.is_out()
    for _ in range(4):
        siege.sends(frame)  # … is soon spent
    assert siege.is_out()
    assert "2 times" in siege.reason


def test_useless_envelopes_are_work_too() -> None:
    """Each that is new costs a signature; each that is known a look."""
    siege, pen = Siege(), Pen("mallory")
    envelope = pen.write({("activeWork", "k"): 1})
    message = Envelopes(envelopes=(envelope,) * 4_000)
    assert work_of(message) == 4_001
    for _ in range(BURST_WORK // 4_000 + 1):
        siege.says(message)
    assert siege.is_out()
    siege.is_unharmed()


def test_what_is_left_of_a_burst_is_not_read_once_it_is_over() -> None:
    """Frames that came before ann hung up wait in line; ann looks at none of them."""
    siege = Siege()
    siege.sends(b"\xc1")
    calls = len(siege.ann.effects)
    siege.ann.node.membership.conduct.broke(siege.mallory, "again", siege.now)
    assert siege.ann.node._frame(siege.mallory, encode_frame([beat()]), siege.now) == []
    assert len(siege.ann.effects) == calls


def test_ten_thousand_leases_told_one_by_one_and_ended_again_are_no_flood() -> None:
    siege = Siege()
    claims = [
        Claim(
            claim=ClaimBody(f"{siege.mallory}.1.{n}", "mallory", (Resource("file", f"f/{n}.py"),), "exclusive", 0, n, 60_000),
            round=1,
            hold_ms=60_000,
            granted=True,
            grade="quorum",
        )
        for n in range(10_000)
    ]
    for start in range(0, 10_000, 2_500):
        siege.says(*claims[start : start + 2_500])
    assert len(siege.asks("ann", ListLeases(everyone=True))) == 10_000
    siege.says(Renew(incarnation=1, round=2, numbers=tuple(range(10_000))))
    for start in range(0, 10_000, 2_500):
        siege.says(*(End(id=claim.claim.id, reason="released") for claim in claims[start : start + 2_500]))
    assert siege.asks("ann", ListLeases(everyone=True)) == []
    assert siege.mallory in siege.ann.links
    assert siege.reason == ""


def test_five_hundred_leases_at_once_of_an_honest_clone_are_no_flood() -> None:
    siege = Siege()
    resources = [(Resource("file", f"src/{n}.py"),) for n in range(500)]
    for one in resources:
        siege.asks("ben", AcquireLease(resources=one))
    siege.advance(15_000)
    assert len(siege.asks("ann", ListLeases(everyone=True))) == 500
    assert {peer.reason for peer in siege.peers() if peer.agent_id == "ben"} == {None}


def test_questions_without_end_get_bounded_answers() -> None:
    siege, pen = Siege(), Pen("carol")
    big = [pen.write({("activeWork", f"k{n}"): "x" * 30_000}) for n in range(600)]
    for start in range(0, 600, 15):
        siege.says(Envelopes(envelopes=tuple(big[start : start + 15])))
    assert siege.mallory in siege.ann.links
    siege.heard.clear()
    for _ in range(200):
        siege.says(Heads(reply=True))  # "I have nothing"
    answered = sum(len(e.update) for message in siege.heard if isinstance(message, Envelopes) for e in message.envelopes)
    assert 0 < answered < 9 << 20
    siege.is_unharmed()


@pytest.mark.parametrize(("rate", "burst"), [(10, 5), (1, 100)])
def test_the_bucket_gives_its_burst_and_then_its_rate(rate: int, burst: int) -> None:
    bucket = Bucket(rate, burst, 0.0)
    assert sum(bucket.take(1, 0.0) for _ in range(1_000)) == burst
    taken = sum(bucket.take(1, at / 100) for at in range(1, 10_001))
    assert taken == pytest.approx(rate * 100, abs=1)
    assert not bucket.take(burst + 1, 1e9)
    assert bucket.take(burst, 1e9)
    assert not bucket.take(1, 5.0)  # time that goes back gives nothing
