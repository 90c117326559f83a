"""Hello is the one message that everything else waits for, and that makes a peer answer with all that it has."""

from __future__ import annotations

import pytest
from tests.attacks.siege import Siege
from tests.core.feeds import Pen

from sudocode_coordination.core.conduct import MAX_HELLOS
from sudocode_coordination.core.node import GREET_MS
from sudocode_coordination.core.wire import MAX_HEADS, Envelopes, Head, Hello


def test_who_never_says_hello_is_hung_up_on() -> None:
    siege = Siege(connected=False)
    siege.connects(hello=False)
    siege.advance(GREET_MS - 1)
    assert siege.mallory in siege.ann.links
    siege.advance(1)
    assert siege.mallory not in siege.ann.links
    assert "no hello" in siege.reason
    siege.is_unharmed()


def test_who_says_hello_again_and_again_is_dropped() -> None:
    siege = Siege()
    for _ in range(MAX_HELLOS - 1):
        siege.says(Hello(incarnation=1))
    assert not siege.is_out()
    siege.says(Hello(incarnation=1))
    assert siege.is_out()
    assert "said hello more than" in siege.reason
    siege.is_unharmed()


def test_a_frame_full_of_hellos_is_not_answered_once() -> None:
    siege = Siege()
    siege.heard.clear()
    siege.says(*(Hello(incarnation=n) for n in range(1_000)))
    assert siege.is_out()
    assert not any(isinstance(message, Envelopes) for message in siege.heard)


@pytest.mark.parametrize("incarnation", [0, 1, (1 << 53) - 1])
def test_whatever_life_mallory_claims_to_be_in_concerns_mallory_alone(incarnation: int) -> None:
    siege = Siege(connected=False)
    siege.connects(hello=False)
    siege.says(Hello(incarnation=incarnation, protocol=(1 << 53) - 1, version="\x1b[2J" * 1_000))
    siege.is_unharmed()


def test_ten_thousand_feeds_that_do_not_exist_are_asked_for_a_few_times_and_forgotten() -> None:
    siege = Siege(connected=False)
    siege.connects(hello=False)
    siege.says(Hello(incarnation=1, heads=tuple(Head(f"nobody-{n}", 9, 9) for n in range(MAX_HEADS))))
    state = siege.ann.node.sync._peers[siege.mallory]
    assert len(state.promised) == MAX_HEADS
    siege.heard.clear()
    for _ in range(20):
        siege.advance(1_000)
    asked = [message for message in siege.heard if getattr(message, "reply", False)]
    assert len(asked) <= 6
    assert not state.promised
    siege.is_unharmed()


def test_a_hello_that_knows_nothing_is_answered_with_no_more_than_fits_a_window() -> None:
    siege, pen = Siege(), Pen("mallory")
    siege.says(Envelopes(envelopes=tuple(pen.write({("activeWork", f"k{n}"): "x" * 9_000}) for n in range(90))))
    siege.heard.clear()
    siege.says(Hello(incarnation=1))
    siege.says(Hello(incarnation=1))
    sent = sum(len(e.update) for message in siege.heard if isinstance(message, Envelopes) for e in message.envelopes)
    assert sent < 9 << 20
