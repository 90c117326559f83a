"""Schedules in which two quorum leases were valid together, as `docs/model` tells them: with real nodes, each rule, and without.

Names are those of the README there. The world's checker looks for two quorum leases after every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.discovery import Discovery
from sudocode_coordination.core.electorate import Electorate
from sudocode_coordination.core.io import BranchRead, DiskContents, PeerRefused, Reply
from sudocode_coordination.core.nearby import Memory
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.core.records import record_name
from sudocode_coordination.core.roster import Roster
from sudocode_coordination.model import Grade, Now, Resource
from sudocode_coordination.sim.checkers import Violation, check_exclusion
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.world import SimNode, World

FILE = (Resource("file", "f"),)
INTERVAL_MS = 60_000
LONGEST_MS = 600_000
FRESH_MS = 2 * INTERVAL_MS + 10_000
WINDOW_MS = 2 * FRESH_MS + LONGEST_MS * 106 // 100
"""A little more than it is."""
ADDRESS = "/ip4/192.0.2.1/tcp/1"


class Swarm:
    """A world, and the branch in the hands of the test. All have weight from the beginning, or have just met (`new`)."""

    def __init__(self, *names: str, seed: int = 1, partition_policy: str = "open", new: bool = False) -> None:
        config: dict[str, Any] = {
            "lease_ttl_ms": LONGEST_MS,
            "max_lease_ttl_ms": LONGEST_MS,
            "peer_discovery_interval_ms": INTERVAL_MS,
            "record_ttl_ms": 7 * 24 * 3_600_000,
            "partition_policy": partition_policy,
        }
        self.world = World(seed, config=lambda name: create_default_config(name, **config), faults=NetworkFaults())
        for name in names:
            self.joins(name)
        self.passes(15_000 if new else 2 * WINDOW_MS)
        for node in self.world.nodes:
            assert node.node is not None
            assert len(node.node.leases.view.established) == len(names) - new

    def joins(self, name: str) -> SimNode:
        node = self.world.add(name)
        node.start()
        return node

    def __getitem__(self, name: str) -> SimNode:
        return next(node for node in self.world.nodes if node.name == name)

    def passes(self, ms: int) -> None:
        end = self.world.scheduler.instant + ms
        self.world.scheduler.at(end, lambda: None)
        while self.world.scheduler.instant < end and self.world.scheduler.step():
            check_exclusion(self.world, settled=False)

    def apart(self, *sides: str) -> None:
        """Groups of names that don't reach each other."""
        groups = [side.split() for side in sides]
        for index, side in enumerate(groups):
            for name in side:
                for other in (other for further in groups[index + 1 :] for other in further):
                    self.world.network.cut(self[name].peer_id, self[other].peer_id)

    def vanish(self, names: str) -> None:
        """Their records are deleted, and they do not notice: they can't reach the remote."""
        files = self.world.remote.files
        for name in names.split():
            self[name].git.connected = False
            del files[record_name(name)]
        self.world.remote.rewrite(files)

    def reads(self, name: str) -> None:
        """At once: somebody unknown has knocked."""
        self[name].deliver(PeerRefused(peer="stranger", address=ADDRESS))
        self.passes(1_000)

    def asks(self, name: str) -> Grade | None:
        told: list[Reply] = []
        self[name].ask(AcquireLease(resources=FILE), told.append)
        self.passes(4_000)
        grade: Grade | None = told[0].value.lease.grade if told and told[0].value else None
        return grade


# --- the schedules --------------------------------------------------------------------------------------------------------------


def restart() -> Grade | None:
    """B and C hold; their records vanish. A is started again, reads only itself, is a majority of one."""
    swarm = Swarm("ann", "ben", "cid")
    swarm["ann"].kill()
    assert swarm.asks("ben") == "quorum"
    swarm.vanish("ben cid")
    swarm["ann"].start()
    swarm.passes(5_000)
    return swarm.asks("ann")


def roster_not_told() -> Grade | None:
    """A and C hold; their records vanish; D still counts them. B joins, reads D and itself."""
    swarm = Swarm("ann", "cid", "dan")
    swarm.apart("ann cid", "dan")
    assert swarm.asks("ann") == "quorum"
    swarm.vanish("ann cid")
    swarm.reads("dan")
    swarm.joins("ben")
    swarm.passes(10_000)
    assert swarm["dan"].peer_id in swarm["ben"].node.membership.connected_peers  # type: ignore[union-attr]
    return swarm.asks("ben")


def comes_back() -> Grade | None:
    """A and C are off the branch for longer than the window; B ceases to count them, and is a majority of one. A and C are back
    before B reads again."""
    swarm = Swarm("ann", "ben", "cid")
    swarm.apart("ann cid", "ben")
    swarm.vanish("ann cid")
    swarm.passes(WINDOW_MS + 2 * INTERVAL_MS)
    swarm.reads("ben")
    assert swarm.asks("ben") == "quorum"
    swarm["ben"].git.connected = False
    for name in ("ann", "cid"):
        swarm[name].git.connected = True
        swarm.reads(name)
    while not {record_name("ann"), record_name("cid")} <= swarm.world.remote.files.keys():
        swarm.passes(1_000)
    swarm.reads("ann")
    return swarm.asks("ann")


def comes_back_to_others() -> Grade | None:
    """D and E vanish; B, whose window is over, is two of three with C. D and E are back before it reads again, and before the
    window of A is over, which noticed later: for A they are three of five."""
    swarm = Swarm("ann", "ben", "cid", "dan", "eve")
    swarm.apart("ann dan eve", "ben cid")
    swarm["ann"].git.connected = False
    swarm.vanish("dan eve")
    for name in ("ben", "cid"):
        swarm.reads(name)
    swarm.passes(90_000)
    swarm["ann"].git.connected = True
    while swarm["dan"].peer_id in swarm["ben"].node.roster.members:  # type: ignore[union-attr]
        swarm.passes(100)
    swarm.reads("ben")
    assert swarm.asks("ben") == "quorum"
    for name in ("ben", "cid"):
        swarm[name].git.connected = False
    assert swarm["dan"].peer_id in swarm["ann"].node.roster.members  # type: ignore[union-attr]
    for name in ("dan", "eve"):
        swarm[name].git.connected = True
        swarm.reads(name)
    while not {record_name("dan"), record_name("eve")} <= swarm.world.remote.files.keys():
        swarm.passes(1_000)
        swarm.reads("dan")
    swarm.reads("ann")
    return swarm.asks("ann")


def all_but_one_join_at_once() -> Grade | None:
    """A is alone, and holds. B, C and D join; each finds the other three, and gives them weight. (With this seed all three have
    published before any of them looks again.)"""
    swarm = Swarm("ann", seed=1)
    assert swarm.asks("ann") == "quorum"
    for name in ("ben", "cid", "dan"):
        swarm.joins(name)
    swarm.apart("ann", "ben cid dan")
    swarm.passes(10_000)
    return swarm.asks("dan")


def three_join_at_once() -> Grade | None:
    """A and C hold. D, E and F join, and find each other there; A has not read since. D, E, F and B are four of six and three of
    the five whom F found."""
    swarm = Swarm("ann", "ben", "cid")
    swarm.apart("ann cid", "ben")
    swarm.reads("ann")
    assert swarm.asks("ann") == "quorum"
    for name in ("ann", "cid"):
        swarm[name].git.connected = False
    for name in ("dan", "eve", "fay"):
        swarm.joins(name)
        swarm.apart("ann cid", name)
        swarm.passes(8_000)
    swarm.reads("ben")
    swarm.reads("fay")
    swarm.passes(10_000)
    swarm.asks("fay")
    return swarm.asks("fay")


def four_join_two_who_are_new() -> Grade | None:
    """A and B have just found each other on an empty branch: both are new. They tell that to C, can't reach it any more, and
    hold. D, E and F join, and C gives weight to all five: three of them, and C itself, are a majority."""
    swarm = Swarm("ann", "ben", seed=0, new=True)
    for name in ("cid", "dan", "eve", "fay"):
        swarm.joins(name)
        if name != "cid":
            swarm.apart("ann ben", name)
        while record_name(name) not in swarm.world.remote.files:
            swarm.passes(20)
        swarm[name].git.connected = False
        assert not swarm[name].node.roster.looked  # type: ignore[union-attr]
        if name == "cid":
            for founder in ("ann", "ben"):
                swarm.reads(founder)
            swarm.passes(20_000)
            assert swarm["cid"].node.membership.connected_peers >= {swarm[n].peer_id for n in ("ann", "ben")}  # type: ignore[union-attr]
            swarm.apart("ann ben", "cid")
            swarm.passes(2_000)
            assert swarm.asks("ann") == "quorum"
            for founder in ("ann", "ben"):
                swarm[founder].git.connected = False
    for name in ("cid", "dan", "eve", "fay"):
        swarm[name].git.connected = True
        swarm.reads(name)
    cid = swarm["cid"].node
    assert cid is not None
    joined = {swarm[name].peer_id for name in ("dan", "eve", "fay")}
    while not cid.membership.connected_peers >= joined or not all(
        swarm[name].node.roster.looked  # type: ignore[union-attr]
        for name in ("cid", "dan", "eve", "fay")
    ):
        swarm.passes(100)
    swarm.passes(1_000)
    assert len(cid.roster.members) == 6
    return swarm.asks("cid")


def apart_for_the_window(*, together: bool) -> Grade | None:
    """D and E vanish from the branch but live. B noticed before A, so its window is over sooner: B and C are two of three while A,
    D and E are three of five. `together`: A notices at the same time, but is connected to them."""
    swarm = Swarm("ann", "ben", "cid", "dan", "eve")
    swarm.apart("ann dan eve", "ben cid")
    swarm["ann"].git.connected = together
    swarm.vanish("dan eve")
    for name in ("ann", "ben", "cid"):
        swarm.reads(name)
    began = swarm.world.scheduler.instant
    swarm.passes(20_000)
    swarm["ann"].git.connected = True
    swarm.passes(began + WINDOW_MS - 5_000 - swarm.world.scheduler.instant)
    while swarm["dan"].peer_id in swarm["ben"].node.roster.members:  # type: ignore[union-attr]
        swarm.passes(100)
    swarm.reads("ben")
    assert swarm.asks("ben") == "quorum"
    return swarm.asks("ann")


def voice_of_the_vanished() -> Grade | None:
    return apart_for_the_window(together=False)


def connected_ones() -> Grade | None:
    return apart_for_the_window(together=True)


# --- without the rules ------------------------------------------------------------------------------------------------------------


def _nothing_is_kept(patch: pytest.MonkeyPatch) -> None:
    started = Electorate.started
    patch.setattr(Electorate, "started", lambda self, _contents, now, **_: started(self, DiskContents(), now, newborn=True))
    patch.setattr(Memory, "started", lambda *_: [])


def _nobody_is_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Roster, "adopt", lambda *_: True)


def _nobody_was_ever_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Roster, "_was_long_off", lambda *_: False)


def _who_is_back_for_others_was_never_off(patch: pytest.MonkeyPatch) -> None:
    judged = Roster._was_long_off
    patch.setattr(Roster, "_was_long_off", lambda self, peer, read_at: peer == self._me and judged(self, peer, read_at))


def _connected_ones_stay(patch: pytest.MonkeyPatch) -> None:
    """Who vanished is disconnected by a rule of its own, which hides what the rules of the roster are for."""
    take = BranchView.take

    def patient(self: BranchView, read: BranchRead, connected: frozenset[str], now: Now, asked: int) -> Any:
        self._grace_ms = WINDOW_MS * 10
        for seen in self._seen.values():
            seen.missing_since = asked if seen.missing_since is None else seen.missing_since
        return take(self, read, connected, now, asked)

    patch.setattr(BranchView, "take", patient)


def _the_vanished_have_a_voice(patch: pytest.MonkeyPatch) -> None:
    _connected_ones_stay(patch)
    patch.setattr(Roster, "voices", property(lambda self: frozenset(self.members)))


def _nobody_asks_whose_weight_counts(patch: pytest.MonkeyPatch) -> None:
    view = Electorate._view
    patch.setattr(Electorate, "_view", lambda *given: view(*given)._replace(groups={}, elders=()))


def _who_says_that_it_is_new_outvotes_the_others(patch: pytest.MonkeyPatch) -> None:
    view = Electorate._view
    patch.setattr(Electorate, "_view", lambda *given: view(*given)._replace(elders=()))


def _who_says_that_it_is_new_is_newer(patch: pytest.MonkeyPatch) -> None:
    """The groups of those who say so are asked of their own voices only."""
    view = Electorate._view
    patch.setattr(
        Electorate,
        "_view",
        lambda *given: (found := view(*given))._replace(elders=found.elders or (found.established if found.groups else ())),
    )


def _connected_ones_are_on_the_branch(patch: pytest.MonkeyPatch) -> None:
    _connected_ones_stay(patch)
    patch.setattr(Discovery, "on_branch", property(lambda self: frozenset(self.roster) - {self._self}))


SCHEDULES = [
    (restart, _nothing_is_kept),
    (roster_not_told, _nobody_is_told),
    (comes_back, _nobody_was_ever_off),
    (voice_of_the_vanished, _the_vanished_have_a_voice),
    (connected_ones, _connected_ones_are_on_the_branch),
    (comes_back_to_others, _who_is_back_for_others_was_never_off),
    (three_join_at_once, _nobody_asks_whose_weight_counts),
    (all_but_one_join_at_once, _who_says_that_it_is_new_outvotes_the_others),
    (four_join_two_who_are_new, _who_says_that_it_is_new_is_newer),
]
NAMES = [schedule.__name__ for schedule, _ in SCHEDULES]


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in SCHEDULES], ids=NAMES)
def test_no_two_quorum_leases_are_valid_together(schedule: Callable[[], Grade | None]) -> None:
    assert schedule() != "quorum"


@pytest.mark.parametrize("schedule", [voice_of_the_vanished, connected_ones])
def test_nor_are_they_if_the_vanished_stay_connected(schedule: Callable[[], Grade | None], monkeypatch: pytest.MonkeyPatch) -> None:
    _connected_ones_stay(monkeypatch)
    assert schedule() != "quorum"


@pytest.mark.parametrize(("schedule", "without"), SCHEDULES, ids=NAMES)
def test_without_the_rule_they_are(
    schedule: Callable[[], Grade | None], without: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    with pytest.raises(Violation):
        schedule()


def test_who_holds_a_quorum_lease_does_not_say_that_it_has_no_weight() -> None:
    """A reads, holds alone by that read, and can't read for long. If it began anew before that lease is over, it would tell three
    who join that it is as new as they are: without it they are a majority of those whom they find. (By the policy `majority` it
    does not become provisional meanwhile.)"""
    swarm = Swarm("ann", partition_policy="majority")
    swarm.reads("ann")
    swarm["ann"].git.connected = False
    swarm.passes(FRESH_MS - 5_000)
    assert swarm.asks("ann") == "quorum"
    swarm.joins("ben")
    swarm.apart("ann", "ben")
    swarm.passes(LONGEST_MS - 90_000)
    swarm["ann"].git.connected = True
    node = swarm["ann"].node
    assert node is not None
    while swarm["ben"].peer_id not in node.roster.voices:
        swarm.passes(1_000)
    (lease,) = node.leases.holdings()
    assert lease.granted
    assert lease.grade == "quorum"
    assert swarm["ann"].peer_id in node.roster.established(swarm["ann"].now.instant)
