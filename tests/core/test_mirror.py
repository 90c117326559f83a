"""The document with one writer: a Yjs client that has followed it reads what is there, whatever it missed."""

from __future__ import annotations

import random

import pytest
from pycrdt import Doc, Map

from sudocode_coordination.core import mirror as mirror_module
from sudocode_coordination.core.facts import ROOTS
from sudocode_coordination.core.mirror import Change, Mirror
from sudocode_coordination.model import Json

WRITER = 77_777_777_777


class Reader:
    """A Yjs client."""

    def __init__(self) -> None:
        self.doc: Doc[Map[Json]] = Doc()

    def has(self, *updates: bytes | None) -> dict[str, dict[str, Json]]:
        for update in updates:
            if update is not None:
                self.doc.apply_update(update)
        roots = {root: dict(self.doc.get(root, type=Map).to_py() or {}) for root in ROOTS}
        return {root: entries for root, entries in roots.items() if entries}


def test_a_reader_has_what_was_written_and_not_what_is_gone() -> None:
    mirror, reader = Mirror(WRITER), Reader()
    first = mirror.change([Change("leases", "a/x", {"n": 1}), Change("activeWork", "b/w", ["é", None, 1.5])])
    assert reader.has(first) == {"leases": {"a/x": {"n": 1}}, "activeWork": {"b/w": ["é", None, 1.5]}}
    assert mirror.change([Change("leases", "a/x", {"n": 1})]) is None
    assert mirror.change([Change("leases", "a/y", None)]) is None
    second = mirror.change([Change("leases", "a/x", None), Change("leases", "a/y", True)])
    assert reader.has(second)["leases"] == {"a/y": True}
    third = mirror.become([Change("leases", "a/x", 2)])
    assert reader.has(third) == {"leases": {"a/x": 2}} == {"leases": {"a/x": mirror.content()["leases", "a/x"]}}


def test_what_cannot_be_written_is_left_out_and_the_rest_is_not() -> None:
    mirror = Mirror(WRITER)
    update = mirror.change([Change("newRoot", "a/x", 1), Change("leases", "a/x", 2**70), Change("leases", "a/y", 1)])
    assert Reader().has(update) == {"leases": {"a/y": 1}}


@pytest.mark.parametrize("seed", range(20))
def test_readers_that_come_and_go_agree(seed: int) -> None:
    dice = random.Random(seed)
    mirror, steady = Mirror(WRITER), Reader()
    now_and_then, its_clock = Reader(), 0
    for _ in range(40):
        changes = [
            Change(
                dice.choice(ROOTS), f"{dice.choice('ab')}/{dice.randrange(4)}", dice.choice([None, dice.randrange(9), {"k": [1]}])
            )
            for _ in range(dice.randrange(1, 4))
        ]
        update = mirror.become(changes) if dice.random() < 0.1 else mirror.change(changes)
        steady.has(update)
        if dice.random() < 0.2:
            now_and_then.has(mirror.lacking(its_clock))
            its_clock = mirror.clock
    expected: dict[str, dict[str, Json]] = {}
    for (root, name), value in mirror.content().items():
        expected.setdefault(root, {})[name] = value
    assert steady.has() == expected
    assert now_and_then.has(mirror.lacking(its_clock)) == expected
    assert Reader().has(mirror.lacking(0)) == expected
    assert Reader().has(mirror.lacking(-5)) == expected
    # Who claims to have more than there is gets the deletions alone, and no fault.
    assert now_and_then.has(mirror.lacking(2**52)) == expected
    assert now_and_then.doc.get_state() == mirror.state_vector()


def test_it_is_overgrown_when_most_of_it_is_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "GROWN_BYTES", 2_000)
    mirror = Mirror(WRITER)
    for n in range(100):
        mirror.change([Change("leases", f"a/{n}", "x" * 100)])
    assert not mirror.overgrown
    for n in range(1_000):
        mirror.change([Change("leases", "a/0", n)])
    assert not mirror.overgrown
    mirror.become([])
    assert mirror.overgrown
