"""Feeds of all authors: signed single-writer logs, applied strictly in order.

A feed is an epoch of an owner: envelopes 1, 2, 3 …, of which the first `parts` are together its snapshot. Laws:

1. Nothing is kept, shown, stored or passed on whose signature and grammar have not been checked.
2. An envelope is applied only right after the one before it. Later ones wait in a bounded buffer, or are dropped: they can be
   had again from whoever sent them.
3. A newer epoch replaces the older one in one step, when its snapshot is complete; until then the older one stays in view.
4. Of two different envelopes that an owner signed for one place, the first that came stays; the owner's fault is recorded.
5. What an owner can make others hold is bounded, and so is the total.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from sudocode_coordination.core.document import Document
from sudocode_coordination.core.facts import EntryChange, Root
from sudocode_coordination.core.grammar import FeedState, GrammarError, Step, client_id, parse_update
from sudocode_coordination.core.io import DiskOperation, ForgottenEpochs, ForgottenValue, StoredEnvelope, StoredValue
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.wire import MAX_ENVELOPE_BYTES, MAX_HEADS, Envelope, Envelopes, Head
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Json, PeerId

MESSAGE_BYTES: Final = 500_000
"""Of envelopes in one message, below the 512 KB of which two fit a frame."""
MAX_FEED_BYTES: Final = 16 << 20
"""Of one feed, encoded. An owner of 8 MB live entries (the writer's own limit) stays below it by compacting."""
MAX_TOTAL_BYTES: Final = 256 << 20
"""Of all feeds together: what a daemon may take of a developer's machine when many owners are greedy."""
MAX_STRANGERS: Final = 500
"""Feeds of owners that the branch does not show: of peers that have left, kept for a week. Anybody can make up keys and sign with
them; such feeds must not take the room of those who come."""
MAX_STRANGER_BYTES: Final = 32 << 20
"""The same in bytes, of the owners that are not shown when more comes."""
MAX_WAITING: Final = 64
"""Envelopes of one owner that wait for an earlier one: more than are under way in a round trip."""
MAX_WAITING_BYTES: Final = 8 << 20
"""Of all waiting envelopes of all owners."""
MAX_PROBLEMS: Final = 100
"""Different faults of peers that are remembered for `coord doctor`."""
NOTHING_MORE: Final = (1 << 53) - 1
"""As the sequence number of a head: nothing of this epoch is wanted any more, it is forgotten or refused."""
EPOCHS_SPACE: Final = "epochs"
"""Disk space of (owner, highest epoch) for owners that are forgotten, and for the own feed."""
SIGNED_DOMAIN: Final = b"sudocode-coordination/envelope/1\0"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def signed_bytes(envelope: Envelope) -> bytes:
    """What the signature of an envelope covers: everything else of it, set apart from all other things that are signed."""
    body = (envelope.owner, envelope.epoch, envelope.seq, envelope.parts, envelope.update)
    return SIGNED_DOMAIN + _encoder.encode(body)


def encode_envelope(envelope: Envelope) -> bytes:
    """Its bytes on disk and in gossip."""
    return _encoder.encode(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """An envelope; neither its signature nor its update is checked here.

    Raises:
        ProtocolError: not what one looks like.
    """
    if len(data) > MAX_ENVELOPE_BYTES + 1_024:
        raise ProtocolError(f"envelope of {len(data)} bytes")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed envelope: {error}") from None


class Feed:
    """One epoch of one owner, as far as it is applied."""

    __slots__ = ("client", "envelopes", "epoch", "owner", "parts", "refused_at", "size_bytes", "snapshot_bytes", "state", "values")

    def __init__(self, owner: PeerId, epoch: int, parts: int) -> None:
        self.owner = owner
        self.epoch = epoch
        self.parts = parts
        self.client = client_id(owner, epoch)
        self.state = FeedState()
        self.envelopes: list[Envelope] = []
        self.size_bytes = 0
        """Encoded."""
        self.snapshot_bytes = 0
        self.values: dict[tuple[Root, str], Json] = {}
        """The snapshot's entries, until it is complete."""
        self.refused_at: int | None = None
        """From this sequence number on the feed is unacceptable, though signed: it waits for a new epoch."""

    @property
    def seq(self) -> int:
        return len(self.envelopes)

    @property
    def complete(self) -> bool:
        """Whether the whole snapshot is there."""
        return len(self.envelopes) >= self.parts

    def append(self, envelope: Envelope, step: Step, size_bytes: int) -> None:
        self.state.commit(step)
        self.envelopes.append(envelope)
        self.size_bytes += size_bytes
        if envelope.seq <= self.parts:
            self.snapshot_bytes += size_bytes
            for change in step.changes:
                if change.value is None:
                    self.values.pop((change.root, change.key), None)
                else:
                    self.values[change.root, change.key] = change.value


Verdict: TypeAlias = Literal["applied", "known", "old", "gap", "refused", "full"]


class Received(NamedTuple):
    """What came of an envelope. `gap`: it waits (or was dropped) for one that is missing. `full`: a limit was reached."""

    verdict: Verdict
    operations: list[DiskOperation] = []
    changes: tuple[EntryChange, ...] = ()
    forged: bool = False
    """Its owner has not signed it: an honest peer would not have passed it on."""


_KNOWN = Received("known")
_OLD = Received("old")
_GAP = Received("gap")
_REFUSED = Received("refused")
_FORGED = Received("refused", forged=True)
_FULL = Received("full")


def in_messages(envelopes: Iterable[Envelope]) -> Iterator[Envelopes]:
    """Envelopes in messages of at most about `MESSAGE_BYTES`."""
    batch: list[Envelope] = []
    size = 0
    for envelope in envelopes:
        more = len(envelope.update) + 200
        if batch and size + more > MESSAGE_BYTES:
            yield Envelopes(envelopes=tuple(batch))
            batch, size = [], 0
        batch.append(envelope)
        size += more
    if batch:
        yield Envelopes(envelopes=tuple(batch))


class FeedStore:
    """All feeds, and the document they make."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._current: dict[PeerId, Feed] = {}
        self._staged: dict[PeerId, Feed] = {}
        """Newer epochs whose snapshot is not complete."""
        self._waiting: dict[PeerId, dict[int, Envelope]] = {}
        """By sequence number, of the newest epoch of the owner; signatures are checked."""
        self._waiting_bytes = 0
        self._forgotten: dict[PeerId, int] = {}
        self._total_bytes = 0
        self.known: frozenset[PeerId] | None = None
        """Peers that the branch shows; None: nothing is known of it yet, and all feeds are welcome: they come from the own disk."""
        self._problems: dict[tuple[PeerId, str], int] = {}
        self.document = Document(self._updates)

    # --- questions ------------------------------------------------------------------------------------------------------

    def owners(self) -> list[PeerId]:
        """All whose feed is in view or on its way."""
        return sorted(self._current.keys() | self._staged.keys())

    def feed(self, owner: PeerId) -> Feed | None:
        """The feed in view."""
        return self._current.get(owner)

    def newest(self, owner: PeerId) -> Feed | None:
        """The newest epoch of which anything is known: what is asked for and passed on."""
        return self._staged.get(owner) or self._current.get(owner)

    def heads(self) -> list[Head]:
        """How far each feed is known; those that are refused or forgotten with a sequence number that asks for nothing."""
        feeds = [feed for owner in self.owners() if (feed := self.newest(owner)) is not None]
        found = [Head(feed.owner, feed.epoch, feed.seq if feed.refused_at is None else NOTHING_MORE) for feed in feeds]
        room = MAX_HEADS - len(found)
        return found + [Head(owner, epoch, NOTHING_MORE) for owner, epoch in sorted(self._forgotten.items())[:room]]

    def settled(self, owner: PeerId, epoch: int, seq: int) -> bool:
        """Whether there is nothing to wait for up to that place: it is in view, superseded, refused or forgotten."""
        if self._forgotten.get(owner, -1) >= epoch:
            return True
        feed = self._current.get(owner)
        if feed is not None and (feed.epoch, feed.seq) >= (epoch, seq):
            return True
        newest = self.newest(owner)
        return newest is not None and newest.epoch == epoch and newest.refused_at is not None and newest.refused_at <= seq

    def missing(self, owner: PeerId, known: tuple[int, int] | None) -> list[Envelope]:
        """What somebody lacks who has `known` (epoch, sequence number) of that owner's feed."""
        feed = self.newest(owner)
        if feed is None:
            return []
        epoch, seq = known or (-1, 0)
        if epoch > feed.epoch:
            return []
        return feed.envelopes[seq:] if epoch == feed.epoch else list(feed.envelopes)

    def forgotten_epoch(self, owner: PeerId) -> int:
        """Highest epoch that was forgotten of the owner; -1 if none."""
        return self._forgotten.get(owner, -1)

    def problems(self) -> list[str]:
        """Faults that were seen in feeds, for people."""
        return [f"{owner}: {what}" + (f" ({n} times)" if n > 1 else "") for (owner, what), n in sorted(self._problems.items())]

    @property
    def total_bytes(self) -> int:
        """Of all feeds, encoded."""
        return self._total_bytes

    def _updates(self) -> Iterator[bytes]:
        for owner in sorted(self._current):
            for envelope in self._current[owner].envelopes:
                yield envelope.update

    # --- envelopes from elsewhere ---------------------------------------------------------------------------------------

    def receive(self, envelope: Envelope, *, trusted: bool = False) -> Received:
        """Judge an envelope, and apply it with all that waited for it.

        Args:
            trusted: its signature was checked before (it comes from the own, sound disk).
        """
        owner, epoch, seq = envelope.owner, envelope.epoch, envelope.seq
        if epoch <= self._forgotten.get(owner, -1):
            return _OLD
        feed = self.newest(owner)
        checked = trusted
        if feed is None or epoch > feed.epoch:
            if not (checked or self.signed(envelope)):
                return _FORGED
            checked = True
            if feed is None and not self._has_room_for(owner):
                return self._fault("?", "no room for another feed", _FULL)
            feed = self._stage(owner, epoch, envelope.parts)
        elif epoch < feed.epoch:
            return _OLD
        if feed.refused_at is not None and seq >= feed.refused_at:
            return _REFUSED
        if seq <= feed.seq:
            self._compare(feed.envelopes[seq - 1], envelope)
            return _KNOWN
        waiting = self._waiting.get(owner, {}).get(seq)
        if waiting is not None and seq != feed.seq + 1:
            self._compare(waiting, envelope)
            return _GAP
        if not (checked or self.signed(envelope)):
            return _FORGED
        if seq > feed.seq + 1:
            self._wait(envelope)
            return _GAP
        return self._apply(feed, envelope)

    def _strangers(self) -> list[Feed]:
        known = self.known or frozenset()
        feeds = [*self._current.values(), *self._staged.values()]
        return [feed for feed in feeds if feed.owner not in known and feed.owner != self._keyring.peer_id]

    def _is_stranger(self, owner: PeerId) -> bool:
        return self.known is not None and owner not in self.known

    def _has_room_for(self, owner: PeerId) -> bool:
        crowded = self._is_stranger(owner) and len(self._strangers()) >= MAX_STRANGERS
        return not crowded and len(self._current) + len(self._staged) < MAX_HEADS

    def _fault(self, owner: PeerId, what: str, result: Received) -> Received:
        key = (owner, what)
        if key in self._problems or len(self._problems) < MAX_PROBLEMS:
            self._problems[key] = self._problems.get(key, 0) + 1
        return result

    def signed(self, envelope: Envelope) -> bool:
        """Whether its owner signed it; if not, that is counted as a fault."""
        if self._keyring.verify(envelope.owner, signed_bytes(envelope), envelope.signature):
            return True
        # Who made it up is unknown: one line for all, so that made-up owners can't fill the list.
        self._fault("?", "an envelope with a wrong signature", _REFUSED)
        return False

    def _compare(self, ours: Envelope, other: Envelope) -> None:
        same = ours.update == other.update and ours.parts == other.parts
        if not same and self.signed(other):
            self._fault(ours.owner, f"signed two different envelopes for epoch {ours.epoch}, number {ours.seq}", _REFUSED)

    def _stage(self, owner: PeerId, epoch: int, parts: int) -> Feed:
        old = self._staged.pop(owner, None)
        if old is not None:
            self._total_bytes -= old.size_bytes
        self._drop_waiting(owner)
        feed = self._staged[owner] = Feed(owner, epoch, parts)
        return feed

    def _drop_waiting(self, owner: PeerId) -> None:
        for envelope in self._waiting.pop(owner, {}).values():
            self._waiting_bytes -= len(envelope.update)

    def _wait(self, envelope: Envelope) -> None:
        waiting = self._waiting.setdefault(envelope.owner, {})
        if len(waiting) < MAX_WAITING and self._waiting_bytes + len(envelope.update) <= MAX_WAITING_BYTES:
            waiting[envelope.seq] = envelope
            self._waiting_bytes += len(envelope.update)

    def _apply(self, feed: Feed, envelope: Envelope) -> Received:
        """Apply the next envelope and those that waited for it. Operations and changes are of all of them together."""
        operations: list[DiskOperation] = []
        changes: list[EntryChange] = []
        result: Received | None = None
        following: Envelope | None = envelope
        while following is not None:
            outcome = self._apply_one(feed, following, operations, changes)
            if outcome is not None:
                result = outcome
                break
            following = self._waiting.get(feed.owner, {}).pop(feed.seq + 1, None)
            if following is not None:
                self._waiting_bytes -= len(following.update)
        if feed.seq < envelope.seq and result is not None:
            return result
        if not self._waiting.get(feed.owner, True):
            del self._waiting[feed.owner]
        return Received("applied", operations, tuple(changes))

    def _apply_one(
        self, feed: Feed, envelope: Envelope, operations: list[DiskOperation], changes: list[EntryChange]
    ) -> Received | None:
        owner = feed.owner
        data = encode_envelope(envelope)
        if self._total_bytes + len(data) > MAX_TOTAL_BYTES:
            return self._fault(owner, "no room for more: the total limit of all feeds is reached", _FULL)
        if self._is_stranger(owner) and sum(f.size_bytes for f in self._strangers()) + len(data) > MAX_STRANGER_BYTES:
            return self._fault("?", "no room for more of peers that are not on the branch", _FULL)
        try:
            if envelope.parts != feed.parts or not feed.parts:
                raise GrammarError("it disagrees about the number of parts")
            if feed.size_bytes + len(data) > MAX_FEED_BYTES:
                raise GrammarError(f"the feed is larger than {MAX_FEED_BYTES} bytes")
            step = parse_update(feed.state, owner, feed.client, envelope.update)
        except GrammarError as error:
            feed.refused_at = envelope.seq
            self._drop_waiting(owner)
            return self._fault(owner, f"refused number {envelope.seq} of epoch {feed.epoch}: {error}", _REFUSED)
        feed.append(envelope, step, len(data))
        self._total_bytes += len(data)
        if self._staged.get(owner) is feed:
            if feed.complete:
                self._swap_in(feed, operations, changes)
            return None
        self.document.apply(envelope.update)
        operations.append(StoredEnvelope(owner=owner, epoch=feed.epoch, seq=envelope.seq, data=data))
        for change in step.changes:
            done = self.document.put(owner, change.root, change.key, change.value)
            if done is not None:
                changes.append(done)
        return None

    def _swap_in(self, feed: Feed, operations: list[DiskOperation], changes: list[EntryChange]) -> None:
        owner = feed.owner
        self._staged.pop(owner, None)
        operations.extend(self._install(feed))
        changes.extend(self.document.replace(owner, feed.values))
        feed.values = {}

    def _install(self, feed: Feed) -> Iterable[DiskOperation]:
        """Make it the owner's feed; what must be written for that."""
        owner = feed.owner
        old = self._current.get(owner)
        self._current[owner] = feed
        if old is None:
            for envelope in feed.envelopes:
                self.document.apply(envelope.update)
        else:
            self._total_bytes -= old.size_bytes
            self.document.invalidate()
        yield ForgottenEpochs(owner=owner, below=feed.epoch)
        if self._forgotten.pop(owner, None) is not None:
            yield ForgottenValue(space=EPOCHS_SPACE, key=owner)
        for envelope in feed.envelopes:
            yield StoredEnvelope(owner=owner, epoch=feed.epoch, seq=envelope.seq, data=encode_envelope(envelope))

    # --- own envelopes --------------------------------------------------------------------------------------------------

    def install_own(self, feed: Feed) -> list[DiskOperation]:
        """A new epoch of the own feed, whole and signed. Its entries are in the view already."""
        stale = self._staged.pop(feed.owner, None)
        if stale is not None:
            self._total_bytes -= stale.size_bytes
        self._drop_waiting(feed.owner)
        self._total_bytes += feed.size_bytes
        feed.values = {}
        return list(self._install(feed))

    def append_own(self, envelope: Envelope, step: Step) -> StoredEnvelope:
        """The next envelope of the own feed. Its entries are in the view already."""
        feed = self._current[envelope.owner]
        data = encode_envelope(envelope)
        feed.append(envelope, step, len(data))
        self._total_bytes += len(data)
        self.document.apply(envelope.update)
        return StoredEnvelope(owner=feed.owner, epoch=feed.epoch, seq=envelope.seq, data=data)

    # --- forgetting -----------------------------------------------------------------------------------------------------

    def remember_forgotten(self, owner: PeerId, epoch: int) -> None:
        """As stored: nothing of the owner up to that epoch is wanted."""
        feed = self._current.get(owner)
        if feed is None or feed.epoch <= epoch:
            self._forgotten[owner] = epoch

    def forget(self, owner: PeerId) -> tuple[list[DiskOperation], tuple[EntryChange, ...]]:
        """Drop all of an owner who is long gone but the highest epoch, so that it does not come back by way of others."""
        newest = self.newest(owner)
        if newest is None:
            return [], ()
        for feeds in (self._current, self._staged):
            feed = feeds.pop(owner, None)
            if feed is not None:
                self._total_bytes -= feed.size_bytes
        self._drop_waiting(owner)
        self.document.invalidate()
        operations: list[DiskOperation] = [
            ForgottenEpochs(owner=owner, below=newest.epoch + 1),
            StoredValue(space=EPOCHS_SPACE, key=owner, data=str(newest.epoch).encode()),
        ]
        while len(self._forgotten) >= MAX_HEADS:
            # Lowest epochs are the longest gone: epochs begin at the wall clock.
            oldest = min(self._forgotten, key=lambda name: (self._forgotten[name], name))
            del self._forgotten[oldest]
            operations.append(ForgottenValue(space=EPOCHS_SPACE, key=oldest))
        self._forgotten[owner] = newest.epoch
        return operations, self.document.replace(owner, {})
