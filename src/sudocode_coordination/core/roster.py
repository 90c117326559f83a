"""Whose weight and whose voice make a quorum: the peers of the branch, held steady against what reading a branch can't tell.

A majority means something only if any two majorities meet. Two peers may see different rosters for a while, so
- who vanishes from the branch without a goodbye (aged out, record deleted, history rewritten) is still counted until everyone
  must have noticed and the longest lease it may hold is over (the window); it has weight, but no voice;
- who appears has a voice, but not yet a weight: a quorum needs a majority of all *and* one of those who are `established`,
  that is here for as long, or were here when this peer first looked. (Joint majorities, as in Raft's membership changes.)
- who is back after so long that somebody may have ceased to count it begins like one who appears, this peer itself too;
- a peer counts majorities only after it has seen its own record on the branch: of two who both find it empty, the compare-
  and-swap lets one be first; weight is dealt at the first look that shows it;
- whom another peer counts, and who was never seen here, is counted as if it had vanished now (`adopt`);
- the window of who vanished passes only while the branch is read: who was not looked for may have been back.

`docs/model` has the schedules in which two quorum leases are valid together without these rules. Each function names the
actions of the models that it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sudocode_coordination.model import Instant, PeerId

GOODBYE_MS: Final = 60_000
"""Whoever said goodbye removes its record after that. One that is still there after so long is of a new life of it."""
MAX_ADOPTED: Final = 256
"""Peers counted at one time because others do: two hundred make a large swarm. Who tells of more is no voice here."""
MAX_OVER: Final = 2_000
"""Peers of whom it is remembered that they are counted no more, so that nobody's old view brings them back."""


class StoredRoster(msgspec.Struct, frozen=True, array_like=True):
    """On disk. Instants are of one boot of the machine: it is believed only if the disk is `intact`."""

    looked: bool = False
    read_at: Instant | None = None
    since: dict[PeerId, Instant | None] = {}
    seen: dict[PeerId, Instant] = {}
    vanished: dict[PeerId, Instant] = {}
    adopted: tuple[PeerId, ...] = ()
    goodbyes: dict[PeerId, Instant] = {}
    over: tuple[PeerId, ...] = ()


class Roster:
    """The members, with since when each counts.

    Args:
        me: this peer, always a member.
        window_ms: until everyone must have noticed a change, and leases of before it are over, and once `fresh_ms` more.
        fresh_ms: how old a read of the branch may be for decisions; part of the window, twice.
    """

    def __init__(self, me: PeerId, window_ms: int, fresh_ms: int) -> None:
        self._me = me
        self._window_ms = window_ms
        self._fresh_ms = fresh_ms
        self._since: dict[PeerId, Instant | None] = {}
        """None: since before this peer looked."""
        self._seen: dict[PeerId, Instant] = {}
        """The latest read that showed it, this peer itself among them."""
        self._vanished: dict[PeerId, Instant] = {}
        self._adopted: set[PeerId] = set()
        self._goodbyes: dict[PeerId, Instant] = {}
        self._over: dict[PeerId, None] = {}
        self.read_at: Instant | None = None
        """When the latest read was asked for, be it in the life before."""
        self.looked = False
        """A read has shown the own record: weight is dealt."""

    # --- what the branch says -----------------------------------------------------------------------------------------------

    def update(self, listed: Iterable[PeerId], *, own: bool, read_at: Instant, now: Instant, stale: Iterable[PeerId] = ()) -> None:
        """`look`: the branch has been read.

        Args:
            listed: whose records count by this read.
            own: whether this peer's does.
            read_at: when it was asked for.
            stale: whose records look out of date; at the first look that says no more than that the clocks differ, so they
                are counted like those who vanish then.
        """
        unwatched = self.read_at is not None and read_at - self.read_at > self._fresh_ms
        self.read_at = read_at
        present = set(listed) - {self._me}
        for peer, at in list(self._goodbyes.items()):
            if peer not in present or now - at >= GOODBYE_MS:
                del self._goodbyes[peer]
        present -= self._goodbyes.keys()
        for peer in sorted(present):
            self._appears(peer, read_at, now)
        if own:
            if not self.looked or self._was_long_off(self._me, read_at):
                self._deal(() if self.looked else stale, now)
            self._seen[self._me] = read_at
        for peer in self._others() - present:
            if unwatched or peer not in self._vanished:
                self._vanished[peer] = max(now, self._vanished.get(peer, now))
        self.passed(now)

    def _appears(self, peer: PeerId, read_at: Instant, now: Instant) -> None:
        self._over.pop(peer, None)
        self._adopted.discard(peer)
        if self._vanished.pop(peer, None) is not None and self._was_long_off(peer, read_at):
            self._since[peer] = now
        self._since.setdefault(peer, now)
        self._seen[peer] = read_at

    def _was_long_off(self, peer: PeerId, read_at: Instant) -> bool:
        """`dropped`: whether somebody may have ceased to count it since it was last seen: not before the window is over for
        the first who noticed, and by a read that is no older than a fresh one."""
        seen = self._seen.get(peer)
        return seen is None or read_at - seen >= self._window_ms - self._fresh_ms

    def _deal(self, stale: Iterable[PeerId], now: Instant) -> None:
        """`deal`, of `look`: the first that shows the own record, or shows it again after long: all who are counted by then have
        weight, this peer itself only if it is alone. Others who come back later begin anew: of many who slept, the first to be back
        is alone in having weight, as the first on an empty branch is."""
        self.looked = True
        for peer in sorted(set(stale) - self._since.keys() - self._goodbyes.keys() - {self._me}):
            self._since[peer] = None
            self._vanished[peer] = now
        self._since = dict.fromkeys(self._since)
        self._since[self._me] = now if self._others() else None

    def passed(self, now: Instant) -> None:
        """`settle`, `passed`: who vanished a window ago is counted no more, if the branch was read lately."""
        if self.read_at is None or now - self.read_at > self._fresh_ms:
            return
        for peer, at in sorted(self._vanished.items()):
            if now - at >= self._window_ms:
                self._forget(peer)
                self._note_over(peer)

    # --- what peers say -----------------------------------------------------------------------------------------------------

    def left(self, peer: PeerId, now: Instant) -> None:
        """`drop`, `HEAR`: it said goodbye: it holds nothing and answers nobody, though the branch may list it for a while yet."""
        if peer != self._me:
            self._goodbyes[peer] = now
            self._forget(peer)
            self._note_over(peer)

    def back(self, peer: PeerId) -> None:
        """It said hello: a goodbye of before is over."""
        self._goodbyes.pop(peer, None)

    def told(self, now: Instant) -> tuple[tuple[PeerId, int], ...]:
        """`tell`: whom this peer counts, for others, with how long still; all of the window for those who are there."""
        left = {peer: max(0, self._window_ms - max(0, now - at)) for peer, at in self._vanished.items()}
        return tuple((peer, left.get(peer, self._window_ms)) for peer in self.members)

    def adopt(self, told: Iterable[tuple[PeerId, int]], now: Instant) -> bool:
        """`adopt`, `tell`: count those whom another counts, as if they had vanished now, and no longer than the one who tells
        does. Who said goodbye or was seen to be gone here is known better. False if there was no room for all."""
        for peer, left_ms in sorted(told):
            if peer == self._me or peer in self._since or peer in self._over or peer in self._goodbyes:
                continue
            if len(self._adopted) >= MAX_ADOPTED:
                return False
            self._adopted.add(peer)
            self._since[peer] = None
            # It may yet vanish in truth, before the next read here.
            self._vanished[peer] = now + self._fresh_ms - (self._window_ms - min(left_ms, self._window_ms))
        return True

    def _others(self) -> set[PeerId]:
        return self._since.keys() - {self._me}

    def _forget(self, peer: PeerId) -> None:
        for of in (self._since, self._seen, self._vanished):
            of.pop(peer, None)
        self._adopted.discard(peer)

    def _note_over(self, peer: PeerId) -> None:
        self._over.pop(peer, None)
        self._over[peer] = None
        while len(self._over) > MAX_OVER:
            del self._over[next(iter(self._over))]

    # --- who counts -----------------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All who have weight or will, sorted, this peer among them."""
        return tuple(sorted({self._me, *self._since}))

    @property
    def voices(self) -> frozenset[PeerId]:
        """Those of them whose answers count: all but the vanished."""
        return frozenset({self._me, *self._since} - self._vanished.keys())

    def established(self, now: Instant) -> tuple[PeerId, ...]:
        """`established`: those of them whose weight counts; this peer alone if nobody's does."""
        found = [p for p, since in self._since.items() if since is None or now - since >= self._window_ms]
        return tuple(sorted(found)) or (self._me,)

    def deadline(self, now: Instant) -> Instant | None:
        """When that changes by the mere passing of time."""
        times = [at + self._window_ms for at in self._vanished.values()]
        times += [at + self._window_ms for at in self._since.values() if at is not None]
        return min((at for at in times if at > now), default=None)

    # --- the disk -----------------------------------------------------------------------------------------------------------

    def stored(self) -> StoredRoster:
        """All of it."""
        return StoredRoster(
            self.looked,
            self.read_at,
            dict(self._since),
            dict(self._seen),
            dict(self._vanished),
            tuple(sorted(self._adopted)),
            dict(self._goodbyes),
            tuple(self._over),
        )

    def restore(self, stored: StoredRoster) -> None:
        """As it was in the life before, of the same boot."""
        self.looked, self.read_at = stored.looked, stored.read_at
        self._since, self._seen, self._vanished = dict(stored.since), dict(stored.seen), dict(stored.vanished)
        self._adopted, self._goodbyes = set(stored.adopted), dict(stored.goodbyes)
        self._over = dict.fromkeys(stored.over)
