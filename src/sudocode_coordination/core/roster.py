"""Whose voices make a quorum: the peers of the branch, held steady against what reading a branch can't tell.

A majority means something only if any two majorities meet. Two peers may see different rosters for a while, so
- who vanishes from the branch without a goodbye (aged out, record deleted, history rewritten) is still counted until everyone
  must have noticed and the longest lease it may hold is over;
- who appears has a voice, but not yet a weight: a quorum needs a majority of all *and* one of those who are `established`,
  that is here for as long, or were here when this peer first looked. (Joint majorities, as in Raft's membership changes.)
- a peer counts majorities only after it has seen its own record on the branch: of two who both find it empty, the compare-
  and-swap lets one be first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sudocode_coordination.model import Instant, PeerId

GOODBYE_MS: Final = 60_000
"""Whoever said goodbye removes its record after that. One that is still there after so long is of a new life of it."""


class Roster:
    """The members, with since when each counts.

    Args:
        me: this peer, always a member.
        window_ms: until everyone must have noticed a change, and leases of before it are over.
    """

    def __init__(self, me: PeerId, window_ms: int) -> None:
        self._me = me
        self._window_ms = window_ms
        self._since: dict[PeerId, Instant | None] = {}
        """None: since before this peer looked."""
        self._vanished: dict[PeerId, Instant] = {}
        self._goodbyes: dict[PeerId, Instant] = {}
        self._looked = False

    def update(self, listed: Iterable[PeerId], *, looked: bool, now: Instant, stale: Iterable[PeerId] = ()) -> None:
        """Who counts by the branch now. `looked`: the branch has been read. `stale`: whose records look out of date; at the first
        look that says no more than that the clocks differ, so they are counted like those who vanish then."""
        present = set(listed) - {self._me}
        for peer, at in list(self._goodbyes.items()):
            if peer not in present or now - at >= GOODBYE_MS:
                del self._goodbyes[peer]
        present -= self._goodbyes.keys()
        if looked and not self._looked:
            self._looked = True
            lingering = sorted(set(stale) - present - self._goodbyes.keys() - {self._me})
            self._since = dict.fromkeys([*sorted(present), *lingering])
            self._vanished = dict.fromkeys(lingering, now)
            self._since[self._me] = now if present else None
        for peer in sorted(present):
            self._since.setdefault(peer, now)
            self._vanished.pop(peer, None)
        for peer in sorted(set(self._since) - present - {self._me}):
            if now - self._vanished.setdefault(peer, now) >= self._window_ms:
                self._forget(peer)

    def left(self, peer: PeerId, now: Instant) -> None:
        """It said goodbye: it holds nothing and answers nobody, though the branch may list it for a while yet."""
        if peer != self._me:
            self._goodbyes[peer] = now
            self._forget(peer)

    def back(self, peer: PeerId) -> None:
        """It said hello: a goodbye of before is over."""
        self._goodbyes.pop(peer, None)

    def _forget(self, peer: PeerId) -> None:
        self._since.pop(peer, None)
        self._vanished.pop(peer, None)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All who count, sorted, this peer among them."""
        return tuple(sorted({self._me, *self._since}))

    def established(self, now: Instant) -> tuple[PeerId, ...]:
        """Those of them whose weight counts; this peer alone if nobody's does."""
        found = [p for p, since in self._since.items() if since is None or now - since >= self._window_ms]
        return tuple(sorted(found)) or (self._me,)
