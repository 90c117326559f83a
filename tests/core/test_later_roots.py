"""A later version may share more than this one knows: it is kept and passed on for those who know it, and nothing stands still."""

from __future__ import annotations

from typing import cast

import pytest
from tests.core.feeds import Peer, Pen, Swarm

from sudocode_coordination.core.facts import Root
from sudocode_coordination.core.grammar import MAX_LATER_ROOTS, GrammarError
from sudocode_coordination.core.wire import Envelope, Envelopes

LATER = cast(Root, "reviews")


def hears(peer: Peer, pen: Pen, *steps: Envelope) -> None:
    """Of the author itself, on a connection."""
    peer.take(peer.sync.peer_up(pen.owner, peer.now))
    peer.take(peer.sync.received(pen.owner, Envelopes(envelopes=steps), peer.now))
    peer.take(peer.sync.peer_down(pen.owner, peer.now))
    peer.said.clear()


def test_what_this_version_does_not_know_is_kept_and_passed_on_and_shown_nowhere() -> None:
    swarm, pen = Swarm("ann", "ben"), Pen("newer")
    ann, ben = swarm["ann"], swarm["ben"]
    steps = (
        pen.write({("leases", "a"): 1, (LATER, "r"): {"by": "newer"}}),
        pen.write({(LATER, "r"): {"by": "newer", "state": "done"}, ("issueUpdates", "#1"): {"title": "seen"}}),
        pen.write({(LATER, "r"): None, (LATER, "s"): 2, ("leases", "a"): 2}),
    )
    hears(ann, pen, *steps)
    assert ann.entries("leases") == {(pen.owner, "a"): 2}
    assert ann.entries("issueUpdates") == {(pen.owner, "#1"): {"title": "seen"}}
    assert {change.root for told in ann.changes for change in told.changes} == {"leases", "issueUpdates"}
    assert not ann.sync.problems()
    shown = ann.sync.document.shared_content()
    assert LATER not in shown
    assert shown["leases"] == {f"{pen.owner}/a": 2}

    swarm.link("ann", "ben")  # passed on as it came
    swarm.settle()
    assert ben.entries("leases") == ann.entries("leases")
    assert [e.update for e in ben.sync.store.missing(pen.owner, None)] == [step.update for step in steps]

    ann.start()  # and it is on the disk
    assert ann.entries("issueUpdates") == {(pen.owner, "#1"): {"title": "seen"}}
    more = pen.write({(LATER, "s"): 3, ("leases", "a"): 3})
    hears(ann, pen, more)
    assert ann.entries("leases") == {(pen.owner, "a"): 3}


def test_a_feed_has_a_limited_number_of_them() -> None:
    swarm, pen = Swarm("ann"), Pen("newer")
    ann = swarm["ann"]
    names = [cast(Root, f"later{chr(97 + number)}") for number in range(MAX_LATER_ROOTS + 1)]
    steps = tuple(pen.sign(number + 1, pen.update({(name, "k"): 1})) for number, name in enumerate(names[:-1]))
    hears(ann, pen, *steps)
    assert not ann.sync.problems()
    assert pen.state.later_roots == set(names[:-1])
    with pytest.raises(GrammarError, match="more than 16 unknown root maps"):
        pen.update({(names[-1], "k"): 1})
