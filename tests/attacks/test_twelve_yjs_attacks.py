"""The twelve ways in which a peer that may write a feed could hurt whoever applies its updates with a CRDT library.

Mallory signs everything properly: nothing is wrong with the envelopes but what is in them. Each time the update is refused before
the library sees a byte of it, mallory's feed stands still, and so does nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
from pycrdt import Array, Doc, Map, XmlFragment
from tests.attacks.siege import Siege
from tests.core.feeds import Pen
from tests.core.test_grammar_attacks import deletes_of, first, section, text, then, uint, update_of

from sudocode_coordination.core.facts import Root
from sudocode_coordination.core.grammar import client_id
from sudocode_coordination.core.wire import Envelopes

ONE = b"\1\x7d\1"
EPOCH = 7


def sub_document() -> bytes:
    doc: Doc[Any] = Doc(client_id=client_id(Pen("mallory").owner, EPOCH))
    doc.get("leases", type=Map)["x"] = Doc()
    return doc.get_update()


def nested_types() -> bytes:
    doc: Doc[Any] = Doc(client_id=client_id(Pen("mallory").owner, EPOCH))
    doc.get("leases", type=Map)["x"] = Map({"a": Array([1]), "b": XmlFragment()})
    return doc.get_update()


def attacks(siege: Siege) -> dict[str, bytes]:
    """What mallory writes behind one harmless entry (clock 0, key `x`)."""
    mine, own_key = client_id(siege.mallory, EPOCH), f"{siege.mallory}/k"
    feed = siege.ann.node.sync.store.feed(siege.ann.peer)
    assert feed is not None
    victim = feed.client
    harmless = first("leases", own_key, ONE)
    return {
        "nested 13,500 deep: kills the process when it is read": update_of(
            section(mine, 1, first("leases", own_key, b"\1" + b"\x75\1" * 13_500 + b"\x7e"))
        ),
        "a length of a thousand million in five bytes: allocates that": update_of(
            section(mine, 1, first("leases", own_key, b"\1\x75" + uint(1_000_000_000)))
        ),
        "a delete set that names the victim: erases what it will write": update_of(
            section(mine, 1, harmless), deletes=deletes_of(victim, (0, 2**40))
        ),
        "a struct at the victim's next clock: diverges for ever": update_of(section(victim, feed.state.clock, harmless)),
        "two clients in one update": update_of(section(mine, 1, harmless), section(victim, feed.state.clock, harmless)),
        "a key of the victim's": update_of(section(mine, 1, first("leases", f"{siege.ann.peer}/1.1", ONE))),
        "an origin in the victim's feed": update_of(section(mine, 1, then(victim, 0))),
        "a gap in its own clock: what follows waits for ever": update_of(section(mine, 900, harmless)),
        "an update behind the update": update_of(section(mine, 1, harmless)) + update_of(section(victim, 0, harmless)),
        "shared types where values belong": nested_types(),
        "a document in the document": sub_document(),
        "an object that sets JavaScript's prototype": update_of(
            section(mine, 1, first("leases", own_key, b"\1\x76\1" + text("__proto__") + b"\x76\0"))
        ),
    }


NAMES = tuple(attacks(Siege()))


def test_there_are_twelve() -> None:
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
def test_an_update_that_would_hurt_is_refused_and_nothing_else_is(name: str) -> None:
    siege, pen = Siege(), Pen("mallory", EPOCH)
    roots: tuple[Root, ...] = ("leases", "activeWork", "agentMetadata")
    siege.says(Envelopes(envelopes=(pen.write({("activeWork", "x"): {"status": "harmless"}}),)))
    store = siege.ann.node.sync.store
    before = {root: list(siege.ann.node.sync.entries(root)) for root in roots}
    assert any(owner == siege.mallory for owner, _, _ in before["activeWork"])

    siege.says(Envelopes(envelopes=(pen.sign(2, attacks(siege)[name]),)))

    assert {root: list(siege.ann.node.sync.entries(root)) for root in roots} == before
    feed = store.feed(siege.mallory)
    assert feed is not None
    assert (feed.seq, feed.refused_at) == (1, 2)
    assert any("refused number 2" in problem for problem in store.problems())
    siege.is_unharmed()

    # Who writes properly again, in a new epoch, is read again: it may have been a fault that was mended.
    pen.begin(EPOCH + 1)
    siege.says(Envelopes(envelopes=(pen.write({("activeWork", "x"): {"status": "mended"}}),)))
    assert siege.ann.node.sync.document.get("activeWork", siege.mallory, "x") == {"status": "mended"}
