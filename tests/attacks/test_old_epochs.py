"""Mallory keeps what others signed in earlier lives, and tries to put the clock back with it; or jumps ahead of them."""

from __future__ import annotations

import pytest
from tests.attacks.siege import WALL, Siege
from tests.core.feeds import Pen

from sudocode_coordination.api.requests import AcquireLease, ListLeases
from sudocode_coordination.core.wire import Claim, ClaimBody, Disclosed, Envelopes, Head, Heads, Hello, Renew
from sudocode_coordination.model import Resource

FILE = (Resource("file", "src/a.py"),)


def test_a_feed_never_goes_back_to_an_earlier_epoch() -> None:
    siege, pen = Siege(), Pen("carol", epoch=1)
    old = [pen.write({("activeWork", "carol"): {"status": f"old {n}"}}) for n in range(3)]
    pen.begin(2)
    new = pen.write({("activeWork", "carol"): {"status": "new"}})
    siege.says(Envelopes(envelopes=(new,)))
    for _ in range(3):
        siege.says(Envelopes(envelopes=tuple(old)))
    assert dict(siege.ann.node.sync.owner_entries("activeWork", pen.owner)) == {"carol": {"status": "new"}}
    siege.is_unharmed()


def test_half_an_epoch_takes_nothing_out_of_view() -> None:
    siege, pen = Siege(), Pen("carol", epoch=1)
    siege.says(Envelopes(envelopes=(pen.write({("activeWork", "carol"): {"status": "whole"}}),)))
    pen.begin(2, parts=3)
    siege.says(Envelopes(envelopes=(pen.write({("activeWork", "carol"): {"status": "a third"}}),)))
    assert dict(siege.ann.node.sync.owner_entries("activeWork", pen.owner)) == {"carol": {"status": "whole"}}


def test_nobody_but_ann_can_make_ann_begin_anew() -> None:
    """A head that says "I have more of your feed than you" is a hint to ask, until that is shown with ann's signature."""
    siege = Siege()
    before = siege.ann.node.sync.incarnation
    for epoch in (before + 1, WALL * 2, (1 << 53) - 1):
        siege.says(Heads(heads=(Head(siege.ann.peer, epoch, 7),), reply=True))
    siege.advance(60_000)
    assert siege.ann.node.sync.store.feed(siege.ann.peer).epoch == before  # type: ignore[union-attr]
    siege.is_unharmed()


def test_who_says_that_nothing_more_of_ann_is_wanted_does_not_make_ann_write_without_end() -> None:
    siege = Siege()
    epochs = set()
    for _ in range(200):
        feed = siege.ann.node.sync.store.feed(siege.ann.peer)
        assert feed is not None
        epochs.add(feed.epoch)
        siege.says(Heads(heads=(Head(siege.ann.peer, feed.epoch, (1 << 53) - 1),)))
        siege.advance(1_000)
    assert len(epochs) <= 4  # each pause is twice as long as the one before it: 60, 120, 240 s
    siege.is_unharmed()


def test_claims_of_a_life_that_is_over_are_not_taken_up_again() -> None:
    siege = Siege()
    old = ClaimBody(f"{siege.mallory}.1.1", "mallory", FILE, "exclusive", 0, 1, 60_000)
    siege.says(Claim(claim=old, round=1, hold_ms=60_000, granted=True, grade="quorum"))
    assert [lease.claim_id for lease in siege.asks("ann", ListLeases(everyone=True))] == [old.id]
    siege.says(Hello(incarnation=5))
    assert siege.asks("ann", ListLeases(everyone=True)) == []
    siege.says(Claim(claim=old, round=2, hold_ms=60_000, granted=True, grade="quorum"))
    siege.says(Renew(incarnation=1, round=3, numbers=(1,)))
    assert siege.asks("ann", ListLeases(everyone=True)) == []
    assert siege.asks("ann", AcquireLease(resources=FILE), within_ms=15_000).granted


@pytest.mark.parametrize("told", [0, 5])
def test_a_lease_that_ben_gave_back_is_not_brought_back_by_hearsay(told: int) -> None:
    from sudocode_coordination.api.requests import ReleaseLease
    from sudocode_coordination.core.wire import Bye

    siege = Siege()
    held = siege.asks("ben", AcquireLease(resources=FILE), within_ms=15_000).lease
    body = ClaimBody(held.claim_id, "ben", FILE, "exclusive", 0, 1, 60_000)
    siege.asks("ben", ReleaseLease(everything=True))
    siege.says(Bye(known=(Disclosed(body, True, "quorum", 60_000, True, told),)))
    assert siege.asks("ann", ListLeases(everyone=True)) == []
