"""Brings the feeds of all peers to all peers.

    own write      -> stored, then pushed to every greeted peer (and gossiped while the mesh is not full)
    peer connects  -> both say Hello with their heads; each answers with what the other lacks
    every 30 s     -> Heads to one random peer, which answers with what is missing here and its own Heads
    a gap          -> Heads to the peer that showed it, at once, at most once a second
    not full mesh  -> what is newly applied goes on to a few peers that are not known to have it

An answer is original envelopes, so any peer can give it. Correctness needs only the 30 s exchange along some path; the rest is
for speed. Nothing is sent before the effect that stores it, and nothing is broadcast on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from random import Random
from typing import Final, assert_never

from sudocode_coordination.core.author import Author, Published
from sudocode_coordination.core.facts import EntriesChanged, EntryChange, Misbehaved, Notify, Output, Root, Say
from sudocode_coordination.core.feed import (
    EPOCHS_SPACE,
    NOTHING_MORE,
    FeedStore,
    Received,
    decode_envelope,
    encode_envelope,
    in_messages,
)
from sudocode_coordination.core.io import DiskContents, DiskOperation, ForgottenEpochs, Gossip, Persist, StoredValue
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.partner import Partner, Place
from sudocode_coordination.core.recovery import Recovery
from sudocode_coordination.core.wire import Envelope, Envelopes, Head, Heads
from sudocode_coordination.errors import ProtocolError, UsageError
from sudocode_coordination.model import Instant, Json, Now, PeerId, earliest

SYNC_TOPIC: Final = "sudocode/sync"
DISK_PAUSE_MS: Final = 60_000
"""Between two tries to write the own feed anew after the disk failed, if nothing else is written."""
EXCHANGE_MS: Final = 30_000
"""Between two exchanges of heads with a random peer, jittered by a fifth."""
ASK_PAUSE_MS: Final = 1_000
"""Between two questions to one peer, and how long an answer may take to make progress."""
MAX_ASKS: Final = 5
"""Questions without progress before waiting for the next exchange: the peer can't or won't give what it told of."""
ANSWER_BYTES: Final = 8 << 20
"""Sent to one peer in answers within `ANSWER_WINDOW_MS`: bounds its send queue, and what repeated questions cost. It asks on."""
ANSWER_WINDOW_MS: Final = ASK_PAUSE_MS // 2
RENEW_PAUSE_MS: Final = 60_000
"""Before a new own epoch is begun because a peer wants no more of this one; twice as long each time, as it may never want any."""
MAX_GOSSIP_BYTES: Final = 40 << 10
"""Larger envelopes are not gossiped: every mesh neighbour would carry several copies."""
FORWARD_PEERS: Final = 3
"""How many peers a newly applied envelope is passed on to where the mesh is not full; copies cost 1 ms each."""


class Sync:
    """The replicated entries of all peers. Call `started` first."""

    def __init__(self, keyring: Keyring, rng: Random, version: str) -> None:
        self._keyring = keyring
        self._rng = rng
        self.version = version
        """Of this software, for `Hello`."""
        self.own = keyring.peer_id
        self.store = FeedStore(keyring)
        self.document = self.store.document
        self._author = Author(keyring, self.store, rng)
        self._recovery = Recovery(keyring)
        self._peers: dict[PeerId, Partner] = {}
        self._exchange_at: Instant | None = None
        self._all_connected = True
        self._renew_at: Instant | None = None
        self._renew_pause = RENEW_PAUSE_MS
        self.incarnation = 0
        """The own feed's first epoch of this run: greater than that of every run before."""

    # --- start ----------------------------------------------------------------------------------------------------------

    def started(self, contents: DiskContents, now: Now, *, newborn: bool = True) -> list[Output]:
        """Load what was stored; whatever of it is unsound is left out, and comes again from others. Opens a new own epoch
        that begins with the own entries of before; its snapshot is published by the first flush, so that entries which are
        out of date can be removed in the same step."""
        operations: list[DiskOperation] = []
        highest = 0
        for stored in sorted(contents.envelopes, key=lambda e: (e.owner, e.epoch, e.seq)):
            if stored.owner == self.own:
                highest = max(highest, stored.epoch)
            try:
                envelope = decode_envelope(stored.data)
            except ProtocolError:
                continue
            if (envelope.owner, envelope.epoch, envelope.seq) != (stored.owner, stored.epoch, stored.seq):
                continue
            # Of what is loaded only the tidying up need be written; the rest is there.
            received = self.store.receive(envelope, trusted=contents.intact)
            operations += [op for op in received.operations if isinstance(op, ForgottenEpochs)]
        for value in contents.values:
            if value.space != EPOCHS_SPACE or not value.data.isdigit() or len(value.data) > 16:
                continue
            if value.key == self.own:
                highest = max(highest, int(value.data))
            else:
                self.store.remember_forgotten(value.key, int(value.data))
        if not newborn and self.store.newest(self.own) is None:
            self._recovery.begin(now.instant)
        self._author.begin(highest + 1, now)
        self.incarnation = self._author.epoch
        operations.append(StoredValue(space=EPOCHS_SPACE, key=self.own, data=str(self.incarnation).encode()))
        outputs: list[Output] = [Persist(operations=tuple(operations))]
        for owner in self.store.owners():
            loaded = self.document.contents(owner).items()
            if loaded:
                changes = tuple(EntryChange(root=root, key=key, value=value) for (root, key), value in loaded)
                outputs.append(EntriesChanged(owner=owner, changes=changes))
        return outputs

    # --- entries --------------------------------------------------------------------------------------------------------

    def set(self, root: Root, key: str, value: Json | None, now: Now, *, urgent: bool = False) -> list[Output]:
        """Write an own entry (None removes it). It shows at once, and is published within 50 ms, or now if `urgent`.

        Raises:
            UsageError: the key or value can't be shared: too large, too deep, not JSON, too much in all.
        """
        return self.put(root, key, value, now, urgent=urgent) + self.written(now)

    def put(self, root: Root, key: str, value: Json | None, now: Now, *, urgent: bool = False) -> list[Output]:
        """`set`, but what is urgent waits for `written`: all entries of a step are one envelope."""
        change = self._author.set(root, key, value, now, urgent=urgent)
        return [] if change is None else [EntriesChanged(owner=self.own, changes=(change,))]

    def get(self, root: Root, owner: PeerId, key: str) -> Json | None:
        """An entry, or None. Not to be changed in place."""
        return self.document.get(root, owner, key)

    def entries(self, root: Root) -> Iterator[tuple[PeerId, str, Json]]:
        """All entries as (owner, key, value), in order of owner and key. Write nothing while iterating."""
        return self.document.entries(root)

    def owner_entries(self, root: Root, owner: PeerId) -> Iterator[tuple[str, Json]]:
        """One owner's entries as (key, value), in order of the key. Write nothing while iterating."""
        return self.document.owner_entries(root, owner)

    def known_owners(self) -> list[PeerId]:
        """All owners of feeds, sorted."""
        return self.store.owners()

    def problems(self) -> list[str]:
        """Faults seen in feeds, for `coord doctor`."""
        return self.store.problems()

    def disk_failed(self, now: Now) -> None:
        """Some of the own feed is not on disk: a new epoch will be, whole, once the disk takes it."""
        self._author.begin(self._author.epoch + 1, now, delay_ms=DISK_PAUSE_MS)

    def flush(self, now: Now) -> list[Output]:
        """Publish at once whatever waits: before the node stops."""
        return self._send(self._author.flush(now.wall_ms), now)

    def written(self, now: Now) -> list[Output]:
        """At the end of a step: publish what is due."""
        return self.flush(now) if self._author.is_due(now) else []

    def _send(self, published: Published, now: Now) -> list[Output]:
        """Store own envelopes, then push them to those that have what comes before."""
        if not published.envelopes:
            return []
        outputs: list[Output] = [Persist(operations=tuple(published.operations))]
        for peer_id in sorted(self._peers):
            peer = self._peers[peer_id]
            if peer.greeted:
                outputs += [Say(peer=peer_id, message=message) for message in in_messages(published.envelopes)]
                self._count_sent(peer, published.envelopes)
        if not self._all_connected:
            encoded = (encode_envelope(envelope) for envelope in published.envelopes)
            outputs += [Gossip(topic=SYNC_TOPIC, data=data) for data in encoded if len(data) <= MAX_GOSSIP_BYTES]
        self._plan(now)
        return outputs

    @staticmethod
    def _count_sent(peer: Partner, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            epoch, seq = peer.has.get(envelope.owner, (-1, 0))
            if (envelope.epoch > epoch and envelope.seq == 1) or (envelope.epoch == epoch and envelope.seq == seq + 1):
                peer.has[envelope.owner] = (envelope.epoch, envelope.seq)

    # --- peers ----------------------------------------------------------------------------------------------------------

    def peer_up(self, peer: PeerId, now: Now) -> list[Output]:
        """The sync stream is open. The node sends `Hello` with `hello()`."""
        self._peers[peer] = Partner()
        self._plan(now)
        return []

    def peer_down(self, peer: PeerId, now: Now) -> list[Output]:
        """The sync stream is gone, and with it what was under way."""
        self._peers.pop(peer, None)
        self._plan(now)
        return []

    def set_reachability(self, all_connected: bool) -> None:
        """Whether this peer is connected to all live peers. If not, changes also travel by gossip and by way of others."""
        self._all_connected = all_connected

    def hello(self) -> tuple[Head, ...]:
        """How far all feeds are known here."""
        return tuple(self.store.heads())

    def greeting(self, now: Now) -> tuple[Head, ...]:
        """The same for the own `Hello`. Without the own feed while copies of it are wanted: the peer gives it as it has it."""
        heads = self.hello()
        return tuple(head for head in heads if head.owner != self.own) if self._recovery.under_way(now.instant) else heads

    def greeted(self, peer: PeerId, heads: tuple[Head, ...], now: Now) -> list[Output]:
        """The peer's `Hello`: answer with what it lacks. What is lacking here comes as its answer to our own Hello."""
        state = self._peers.get(peer)
        if state is None:
            return []
        state.greeted = True
        return self._compare(peer, state, heads, now)

    def received(self, peer: PeerId, message: Heads | Envelopes, now: Now) -> list[Output]:
        """A message of the peer's, after its Hello."""
        state = self._peers.get(peer)
        if state is None:
            return []
        match message:
            case Heads():
                outputs = self._compare(peer, state, message.heads, now)
                if message.reply and state.replied_at != now.instant:  # many questions at once have one answer
                    state.replied_at = now.instant
                    outputs.append(Say(peer=peer, message=Heads(heads=self.hello())))
                return outputs
            case Envelopes():
                return self._take(message.envelopes, peer, now)
            case _:
                assert_never(message)

    def gossiped(self, data: bytes, now: Now) -> list[Output]:
        """An envelope from the gossip topic: only a hint, judged like any other."""
        try:
            envelope = decode_envelope(data)
        except ProtocolError:
            return []
        return self._take((envelope,), None, now)

    def _renew(self, now: Now) -> None:
        """A peer has forgotten or refused the own epoch, say after a long time apart: it takes up a new one."""
        if self._renew_at is None or self._renew_at <= now.instant:
            self._renew_at = now.instant + self._renew_pause
            self._renew_pause *= 2
            self._author.begin(self._author.epoch + 1, now)

    # --- giving ---------------------------------------------------------------------------------------------------------

    def _compare(self, peer_id: PeerId, peer: Partner, heads: tuple[Head, ...], now: Now) -> list[Output]:
        """Take note of what the peer has, and send what it lacks."""
        told = {head.owner: (head.epoch, head.seq) for head in heads}
        if peer.answered_at is not None and now.instant - peer.answered_at < ASK_PAUSE_MS:
            # An answer may be on its way that the peer had not seen when it wrote this.
            for owner in self.store.owners():
                if owner in peer.has:
                    told[owner] = max(told.get(owner, (-1, 0)), peer.has[owner])
        peer.has = told
        if told.get(self.own) == (self._author.epoch, NOTHING_MORE):
            self._renew(now)
        outputs: list[Output] = self.flush(now) if self._author.must_begin else []
        peer.promised = {owner: place for owner, place in sorted(told.items()) if self._lacks(owner, place)}
        outputs += self._answer(peer_id, peer, now)
        outputs += self._progress(peer_id, peer, now)
        if peer.promised and peer.ask_at is None:
            peer.asks = 0
            peer.ask_at = now.instant + ASK_PAUSE_MS
        return outputs

    def _lacks(self, owner: PeerId, place: Place) -> bool:
        epoch, seq = place
        if seq == NOTHING_MORE or not seq:
            return False
        if owner == self.own:
            # Only if it is newer than all this run knows of: the disk was lost and the clock went back.
            return place > (self._author.epoch, self._author.seq)
        return not self.store.settled(owner, epoch, seq)

    def _answer(self, peer_id: PeerId, peer: Partner, now: Now) -> list[Output]:
        outputs: list[Output] = []
        own_lacking = self.store.missing(self.own, peer.has.get(self.own))
        if self._author.helps_joiner(len(own_lacking)):
            greeted, peer.greeted = peer.greeted, False
            outputs += self._send(self._author.compact(now.wall_ms), now)
            peer.greeted = greeted
        if peer.answered_at is None or now.instant - peer.answered_at >= ANSWER_WINDOW_MS:
            peer.answered_bytes = 0
        lacking: list[Envelope] = []
        for owner in self.store.owners():
            for envelope in self.store.missing(owner, peer.has.get(owner)):
                if peer.answered_bytes >= ANSWER_BYTES:
                    break
                peer.answered_bytes += len(envelope.update) + 200
                lacking.append(envelope)
        if lacking:
            peer.answered_at = now.instant
            self._count_sent(peer, lacking)
            outputs += [Say(peer=peer_id, message=message) for message in in_messages(lacking)]
        return outputs

    # --- taking ---------------------------------------------------------------------------------------------------------

    def _take(self, envelopes: tuple[Envelope, ...], source: PeerId | None, now: Now) -> list[Output]:
        operations: list[DiskOperation] = []
        changes: dict[PeerId, list[EntryChange]] = {}
        applied: set[PeerId] = set()
        gaps: dict[PeerId, Place] = {}
        jumped: list[Output] = []
        unwanted = False
        for envelope in envelopes:
            owner, place = envelope.owner, (envelope.epoch, envelope.seq)
            received = self._take_own(envelope, now, jumped) if owner == self.own else self.store.receive(envelope)
            if source is not None and received.verdict in ("applied", "known", "gap"):
                self._peers[source].got(owner, place)
            match received.verdict:
                case "applied":
                    applied.add(owner)
                    operations += received.operations
                    if received.changes:
                        changes.setdefault(owner, []).extend(received.changes)
                case "gap":
                    gaps[owner] = max(place, gaps.get(owner, place))
                case "refused" if received.forged and source is not None:  # an honest peer has checked what it passes on
                    jumped.append(Misbehaved(peer=source, reason="sent an envelope that its owner has not signed"))
                    break
                case "refused":
                    unwanted = unwanted or owner == source
                case "known" | "old" | "full":
                    pass
                case _:
                    assert_never(received.verdict)
        outputs: list[Output] = [Persist(operations=tuple(operations))] if operations else []
        outputs += jumped
        outputs += [EntriesChanged(owner=owner, changes=tuple(done)) for owner, done in changes.items()]
        if gaps:
            self._note_gaps(gaps, source, now)
        for peer_id in sorted(self._peers):
            outputs += self._progress(peer_id, self._peers[peer_id], now, moved=bool(applied) and peer_id == source)
        outputs += self._ask_due(now)
        if unwanted and source is not None:
            outputs += self._tell_owner(source, now)
        if applied and not self._all_connected:
            outputs += self._forward(sorted(applied), source)
        return outputs

    def _take_own(self, envelope: Envelope, now: Now, outputs: list[Output]) -> Received:
        """Somebody has what this peer signed and no longer knows: never write there again, go on beyond it."""
        for root, key, value, before in self._recovery.take(envelope) if self._recovery.under_way(now.instant) else ():
            if self.get(root, self.own, key) == before:  # else it was written anew since
                with suppress(UsageError):  # there is no room for it any more
                    outputs += self.set(root, key, value, now)
        feed = self.store.feed(self.own)
        epoch, seq = self._author.epoch, self._author.seq
        ours = feed.envelopes[envelope.seq - 1] if feed is not None and envelope.epoch == epoch and envelope.seq <= seq else None
        if envelope.epoch < epoch or (ours is not None and (ours.update, ours.parts) == (envelope.update, envelope.parts)):
            return Received("known")
        if not self.store.signed(envelope):
            return Received("refused", forged=True)
        self._author.begin(envelope.epoch + 1, now)
        outputs.append(Persist(operations=(StoredValue(space=EPOCHS_SPACE, key=self.own, data=str(self._author.epoch).encode()),)))
        outputs += self.flush(now)
        return Received("old")

    def _note_gaps(self, gaps: dict[PeerId, Place], source: PeerId | None, now: Now) -> None:
        """Plan a question to who showed the gap; to the owner or anybody if that was gossip."""
        greeted = [peer_id for peer_id in sorted(self._peers) if self._peers[peer_id].greeted]
        if source is None and greeted:
            source = next((owner for owner in gaps if owner in greeted), None) or self._rng.choice(greeted)
        if source is None:
            return
        peer = self._peers[source]
        for owner, place in gaps.items():
            peer.promised[owner] = max(place, peer.promised.get(owner, place))
        soonest = now.instant if peer.asked_at is None else max(now.instant, peer.asked_at + ASK_PAUSE_MS)
        if peer.ask_at is None or soonest < peer.ask_at:
            peer.ask_at = soonest
            peer.asks = 0

    def _tell_owner(self, owner: PeerId, now: Now) -> list[Output]:
        """What is written here of its feed is refused: our heads say so, and it begins anew."""
        asked_at = self._peers[owner].asked_at
        return [self._ask(owner, now)] if asked_at is None or now.instant - asked_at >= ASK_PAUSE_MS else []

    def _progress(self, peer_id: PeerId, peer: Partner, now: Now, *, moved: bool = False) -> list[Output]:
        """Strike off what has come; tell when all of the peer's Hello is here."""
        for owner in [owner for owner, place in peer.promised.items() if not self._lacks(owner, place)]:
            del peer.promised[owner]
        if not peer.promised:
            peer.ask_at = None
            if peer.joining and peer.greeted:
                peer.joining = False
                feeds = len(self.store.owners())
                data: dict[str, Json] = {"peerId": peer_id, "feeds": feeds, "entries": self.document.entry_count}
                return [Notify(type="sync-completed", data=data)]
        elif moved and peer.ask_at is not None:
            peer.asks = 0
            peer.ask_at = now.instant + ASK_PAUSE_MS
        return []

    def _forward(self, owners: list[PeerId], source: PeerId | None) -> list[Output]:
        """Pass newly applied feeds on to a few peers that are not known to have them."""
        outputs: list[Output] = []
        for owner in owners:
            behind = [
                (peer_id, lacking)
                for peer_id, peer in sorted(self._peers.items())
                if peer.greeted and peer_id not in (owner, source)
                if (lacking := self.store.missing(owner, peer.has.get(owner)))
            ]
            for peer_id, lacking in sorted(self._rng.sample(behind, min(FORWARD_PEERS, len(behind))), key=lambda pair: pair[0]):
                outputs += [Say(peer=peer_id, message=message) for message in in_messages(lacking)]
                self._count_sent(self._peers[peer_id], lacking)
        return outputs

    # --- time -----------------------------------------------------------------------------------------------------------

    def ticked(self, now: Now) -> list[Output]:
        """Do what is due: flush, questions, the exchange with a random peer."""
        outputs = self.written(now) + self._ask_due(now)
        if self._exchange_at is not None and self._exchange_at <= now.instant:
            self._exchange_at = None
            greeted = [peer_id for peer_id in sorted(self._peers) if self._peers[peer_id].greeted]
            if greeted:
                outputs.append(self._ask(self._rng.choice(greeted), now))
            self._plan(now)
        return outputs

    def deadline(self) -> Instant | None:
        """When `ticked` is next due."""
        first = earliest(self._author.deadline(), self._exchange_at)
        for peer in self._peers.values():
            if peer.ask_at is not None and (first is None or peer.ask_at < first):
                first = peer.ask_at
        return first

    def _plan(self, now: Now) -> None:
        if not self._peers:
            self._exchange_at = None
        elif self._exchange_at is None:
            self._exchange_at = now.instant + round(EXCHANGE_MS * self._rng.uniform(0.8, 1.2))

    def _ask(self, peer_id: PeerId, now: Now) -> Say:
        self._peers[peer_id].asked_at = now.instant
        return Say(peer=peer_id, message=Heads(heads=self.hello(), reply=True))

    def _ask_due(self, now: Now) -> list[Output]:
        outputs: list[Output] = []
        for peer_id, peer in sorted(self._peers.items()):
            if peer.ask_at is None or peer.ask_at > now.instant:
                continue
            peer.asks += 1
            if peer.asks > MAX_ASKS:
                peer.promised.clear()
                peer.ask_at = None
                continue
            peer.ask_at = now.instant + ASK_PAUSE_MS
            outputs.append(self._ask(peer_id, now))
        return outputs

    # --- forgetting -----------------------------------------------------------------------------------------------------

    def forget_owner(self, owner: PeerId) -> list[Output]:
        """Drop the feed of a peer that is long gone; it is taken up again when that peer writes with a newer epoch."""
        if owner == self.own:
            return []
        operations, changes = self.store.forget(owner)
        gone: list[Output] = [Persist(operations=tuple(operations))] if operations else []
        return [*gone, EntriesChanged(owner=owner, changes=changes)] if changes else gone
