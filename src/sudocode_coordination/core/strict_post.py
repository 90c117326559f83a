"""Who writes to the strict table for whom: own operations go to the one peer that writes for all who are connected, or are written
here; those of others are written here, too. An operation keeps its name whoever writes it, so it may take two ways at once.
"""

from __future__ import annotations

from typing import Final

from sudocode_coordination.core.claims import owner_of
from sudocode_coordination.core.facts import Misbehaved, Output, Say
from sudocode_coordination.core.holdings import View
from sudocode_coordination.core.strict_own import OwnStrict, Sent
from sudocode_coordination.core.strict_table import claims_of, fits, id_of
from sudocode_coordination.core.strict_writer import Settled, TableWriter
from sudocode_coordination.core.wire import StrictAcquire, StrictAnswer, StrictAsk, StrictOp
from sudocode_coordination.model import ClaimId, Instant, Now, PeerId

ASK_MS: Final = 8_000
"""For so long the peer that writes for all may take, a slow push and one before it; then the asker writes for itself."""
SHUN_MS: Final = 60_000
"""How long one that did not answer is not asked again."""
KEEP_MS: Final = 20_000
"""What other peers ask is tried for so long: by then they have turned to the remote themselves."""


class StrictPost:
    """See the module.

    Args:
        me: this peer.
        writer: what is written here goes through it.
    """

    def __init__(self, me: PeerId, writer: TableWriter) -> None:
        self._me = me
        self.writer = writer
        self._own: dict[ClaimId, OwnStrict] = {}
        self._sent: dict[str, Sent] = {}
        """Own operations under way, by name."""
        self._outbox: list[StrictOp] = []
        self._view = View()
        self._peers: tuple[PeerId, ...] = ()
        """Connected peers of the roster."""
        self._shunned: dict[PeerId, Instant] = {}
        """Those who did not answer, and until when they are not asked."""
        self._count = 0
        self._stopping = False
        self._dirty = True
        """Something has changed that timers depend on."""

    # --- what peers say -------------------------------------------------------------------------------------------------

    def view_changed(self, view: View, now: Now) -> None:
        """Who can be asked."""
        if view is self._view:
            return
        self._view = view
        peers = tuple(peer for peer in view.roster if peer in view.connected and peer != self._me)
        if peers == self._peers:
            return
        for peer in set(self._peers).difference(peers):
            self.writer.drop_of(peer)
        self._peers = peers
        self._shunned = {peer: until for peer, until in self._shunned.items() if peer in peers}
        for name, sent in list(self._sent.items()):
            if sent.to is not None and sent.to not in peers:
                self._write_here(name, now)

    def received(self, peer: PeerId, message: StrictAsk | StrictAnswer, now: Now) -> list[Output]:
        """A peer asks for something to be written, or has written it."""
        if isinstance(message, StrictAsk):
            return self._asked(peer, message, now)
        self._answered(peer, message, now)
        return []

    def _asked(self, peer: PeerId, given: StrictAsk, now: Now) -> list[Output]:
        """A peer wants something written."""
        op = given.op
        if any(owner_of(name) != peer for name in (id_of(op), *claims_of(op))):
            return [Misbehaved(peer=peer, reason="wanted to change another peer's strict leases")]
        if isinstance(op, StrictAcquire) and not fits(op.claim):
            return [Say(peer=peer, message=StrictAnswer(id=id_of(op), reason="that can't be in the table"))]
        if self._stopping:
            return [Say(peer=peer, message=StrictAnswer(id=id_of(op), reason="stopping"))]
        self.writer.submit(op, peer, now, patient=False, by=now.instant + KEEP_MS)
        return []

    def _answered(self, peer: PeerId, given: StrictAnswer, now: Now) -> None:
        """What became of something that a peer was asked to write."""
        sent = self._sent.get(given.id)
        if sent is None or sent.to != peer:
            return
        if given.result is None:
            self._shunned[peer] = now.instant + SHUN_MS
            self._write_here(given.id, now)
            return
        own = self._own.get(given.id)
        if own is not None:
            own.loose = False
        self.writer.settled.append(Settled(sent.op, None, given.result))

    # --- own operations -------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        self._count += 1
        return f"{self._me}.{self.writer.incarnation}.op{self._count}"

    def _all_by_itself(self) -> None:
        """This peer stops: nothing is asked of others any more, and nothing done for them."""
        self._stopping = True
        self.writer.send_away("this peer stops")
        for name, sent in list(self._sent.items()):
            if sent.to is not None:
                self._outbox.append(self._sent.pop(name).op)

    def _tired_of_waiting(self, now: Now) -> None:
        for name, sent in list(self._sent.items()):
            if sent.to is not None and sent.answer_by <= now.instant:
                self._shunned[sent.to] = now.instant + SHUN_MS
                self._write_here(name, now)

    def _writes_for_all(self, now: Now) -> PeerId | None:
        """The peer that is asked; None: this one writes itself."""
        able = [peer for peer in self._peers if self._shunned.get(peer, now.instant) <= now.instant]
        first = min([self._me, *able])
        return None if self._stopping or first == self._me else first

    def _send(self, now: Now) -> list[Output]:
        out: list[Output] = []
        outbox, self._outbox = self._outbox, []
        self._dirty = self._dirty or bool(outbox)
        for op in outbox:
            name = id_of(op)
            to = self._writes_for_all(now)
            self._sent[name] = Sent(op, now.instant, to, now.instant + ASK_MS)
            if to is None:
                self._write_here(name, now)
                continue
            if (own := self._own.get(name)) is not None:
                own.loose = True
            out.append(Say(peer=to, message=StrictAsk(op=op)))
        return out

    def _write_here(self, name: str, now: Now) -> None:
        self._dirty = True
        sent = self._sent[name] = self._sent[name]._replace(to=None)
        own = self._own.get(name)
        self.writer.submit(sent.op, None, now, patient=own is None or own.waits)
