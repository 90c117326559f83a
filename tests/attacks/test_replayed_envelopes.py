"""Mallory has recorded what others signed, and sends it again: twice, in another order, with parts left out, in pieces.

An envelope is applied once, right behind the one before it; whatever the order, what is seen in the end is what its author wrote.
"""

from __future__ import annotations

from random import Random

import pytest
from tests.attacks.siege import Siege
from tests.core.feeds import Pen

from sudocode_coordination.core import feed as feeds
from sudocode_coordination.core.feed import encode_envelope
from sudocode_coordination.core.sync import SYNC_TOPIC
from sudocode_coordination.core.wire import Envelope, Envelopes
from sudocode_coordination.model import Json


def diary(length: int) -> tuple[list[Envelope], dict[str, Json]]:
    """What carol wrote, one step after the other, and what stands in the end."""
    pen = Pen("carol")
    stands: dict[str, Json] = {}
    envelopes = []
    for n in range(length):
        key, value = f"k{n % 5}", {"n": n}
        gone = n % 7 == 6 and key in stands
        envelopes.append(pen.write({("activeWork", key): None if gone else value}))
        stands.pop(key, None)
        if not gone:
            stands[key] = value
    return envelopes, stands


def seen(siege: Siege) -> dict[str, Json]:
    return dict(siege.ann.node.sync.owner_entries("activeWork", Pen("carol").owner))


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_order_the_end_is_what_the_author_wrote(seed: int) -> None:
    siege, dice = Siege(), Random(seed)
    envelopes, stands = diary(40)
    sent = envelopes * 3
    dice.shuffle(sent)
    for envelope in sent:
        if dice.random() < 0.5:
            siege.says(Envelopes(envelopes=(envelope,)))
        else:
            siege.gossips(SYNC_TOPIC, encode_envelope(envelope))
    assert siege.mallory in siege.ann.links  # to pass on what others signed is no fault
    assert seen(siege) == stands
    siege.is_unharmed()


def test_a_replay_brings_back_nothing_that_was_deleted() -> None:
    siege, pen = Siege(), Pen("carol")
    first, gone = pen.write({("activeWork", "k"): 1}), pen.write({("activeWork", "k"): None})
    for envelopes in ((first, gone), (first,), (first, gone), (first,)):
        siege.says(Envelopes(envelopes=envelopes))
    assert seen(siege) == {}
    feed = siege.ann.node.sync.store.feed(pen.owner)
    assert feed is not None
    assert feed.seq == 2


def test_what_waits_for_a_missing_one_is_bounded() -> None:
    siege = Siege()
    envelopes, _ = diary(400)
    siege.says(Envelopes(envelopes=(envelopes[0], *envelopes[2:])))  # the second never comes
    store = siege.ann.node.sync.store
    assert seen(siege) == {"k0": {"n": 0}}
    assert len(store._waiting[Pen("carol").owner]) == feeds.MAX_WAITING
    siege.says(Envelopes(envelopes=(envelopes[1],)))
    feed = store.feed(Pen("carol").owner)
    assert feed is not None
    assert feed.seq == feeds.MAX_WAITING + 2  # the rest is asked for again
    siege.is_unharmed()


def test_of_two_envelopes_for_one_place_the_first_stays_and_the_owner_is_named() -> None:
    siege, pen = Siege(), Pen("mallory")
    mine = pen.write({("activeWork", "k"): "to ann"})
    other = Pen("mallory").write({("activeWork", "k"): "to ben"})
    siege.says(Envelopes(envelopes=(mine,)))
    siege.says(Envelopes(envelopes=(other,)))
    assert siege.ann.node.sync.document.get("activeWork", siege.mallory, "k") == "to ann"
    assert any("two different envelopes" in problem for problem in siege.ann.node.sync.store.problems())
    siege.is_unharmed()
