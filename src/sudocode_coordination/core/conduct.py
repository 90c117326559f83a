"""How peers behave: what each may cost, who is kept out for breaking the rules, and why it was dropped last.

A peer that broke a rule is disconnected and kept out for a while, longer each time; then it may try again, for it may have been a
fault that was mended. What it costs is counted by peer and not by connection, so that a new connection buys nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, assert_never

from sudocode_coordination.core.resources import pattern_count
from sudocode_coordination.core.wire import (
    Ack,
    Bye,
    Claim,
    End,
    Envelopes,
    Granted,
    Heads,
    Hello,
    Members,
    Presence,
    RecordOffer,
    Renew,
    RenewAck,
    StrictAcquire,
    StrictAnswer,
    StrictAsk,
    WireMessage,
)
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Instant, Now, PeerId, Resource, WallMs

BYTES_PER_SECOND: Final = 16 << 20
"""Of one peer, for long: what answers to our own questions can bring (`sync.ANSWER_BYTES` in each half second)."""
BURST_BYTES: Final = 64 << 20
"""At once: four times what may wait for us at a peer (`links.queue_bytes`) while this machine sleeps."""
WORK_PER_SECOND: Final = 4_000
"""Units of work of one peer, for long; one is a message or an envelope, 0.1 to 0.2 ms here. Two cores of today can't make more
of them than that for long, and do other things beside it."""
BURST_WORK: Final = 60_000
"""At once: twice what an answer of 8 MB holds if it is all small envelopes, and more than the claims that one clone may have
(25,000) told one by one and all ended again."""
MAX_HELLOS: Final = 3
"""On one connection: one is due. Each makes us compare all feeds, and answer with what the peer says that it lacks."""
SMALL_PER_UNIT: Final = 16
"""Heads, numbers, members: so many are one unit."""
NAMES_PER_UNIT: Final = 4
"""Names in a claim: each is looked for among all claims."""
UNITS_OF_PATTERN: Final = 100
"""A pattern in a claim: one can be made that has to be compared with all others that there are, some 10 ms. An honest clone has
256 at most (`claims.MAX_OWN_PATTERNS`)."""
BYTES_PER_UNIT: Final = 1_024
"""Of envelopes, beside themselves: entries in them are judged one by one."""
FIRST_BENCH_MS: Final = 5_000
"""How long who broke a rule is kept out, doubled each time …"""
MAX_BENCH_MS: Final = 300_000
"""… up to this: a clone that is mended by an update comes back within minutes, by itself."""
FORGIVEN_MS: Final = 3_600_000
"""Without a fault for so long, the next one counts as the first; the last reason is told for as long."""
MAX_PEERS: Final = 1_024
"""Peers whose conduct is remembered: several times the most that may be connected. The ones seen last."""
MAX_REASON_CHARS: Final = 300
"""Of a reason: it may quote what the peer sent."""


class Bucket:
    """A token bucket: `rate` a second for long, `burst` at once. Full at first."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, at: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = at

    def take(self, amount: float, at: float) -> bool:
        """Whether there was as much; what is over the limit is not taken. `at` in seconds, by any steady clock."""
        if at > self._at:
            self._left = min(self.burst, self._left + (at - self._at) * self.rate)
            self._at = at
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Dropped(NamedTuple):
    """The last time that a peer broke a rule."""

    reason: str
    at_ms: WallMs
    at: Instant
    times: int
    """In a row, since it was forgiven last."""
    until: Instant
    """Kept out until then."""


class _Record:
    __slots__ = ("bytes", "dropped", "hellos", "work")

    def __init__(self, now: Instant) -> None:
        self.bytes = Bucket(BYTES_PER_SECOND, BURST_BYTES, now / 1000)
        self.work = Bucket(WORK_PER_SECOND, BURST_WORK, now / 1000)
        self.dropped: Dropped | None = None
        self.hellos = 0
        """On this connection."""


class Conduct:
    """See the module."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()
        self._cut: set[PeerId] = set()
        """Dropped, and the network has yet to say that it is gone: what still comes from it is not read."""
        self._kept_out: dict[PeerId, Instant] = {}

    def connected(self, peer: PeerId, now: Instant) -> None:
        """A new connection."""
        self._record(peer, now).hellos = 0
        self._cut.discard(peer)

    def disconnected(self, peer: PeerId) -> None:
        """It is gone."""
        self._cut.discard(peer)

    def listens_to(self, peer: PeerId) -> bool:
        """Whether what comes from it is read."""
        return peer not in self._cut

    def frame(self, peer: PeerId, size_bytes: int, now: Instant) -> None:
        """A frame has come.

        Raises:
            ProtocolError: the peer sends too much.
        """
        if not self._record(peer, now).bytes.take(size_bytes, now / 1000):
            raise ProtocolError(f"sends too much: over {BYTES_PER_SECOND >> 20} MB a second")

    def messages(self, peer: PeerId, messages: tuple[WireMessage, ...], now: Instant) -> None:
        """What was in it.

        Raises:
            ProtocolError: it is more than a peer may have done here, or one hello after the other.
        """
        record = self._record(peer, now)
        if not record.work.take(sum(map(work_of, messages)), now / 1000):
            raise ProtocolError(f"asks too much: over {WORK_PER_SECOND} messages and envelopes a second")
        record.hellos += sum(isinstance(message, Hello) for message in messages)
        if record.hellos > MAX_HELLOS:
            raise ProtocolError(f"said hello more than {MAX_HELLOS} times on one connection")

    def broke(self, peer: PeerId, reason: str, now: Now) -> Dropped:
        """It broke a rule: it is to be disconnected, and kept out for a while."""
        record = self._record(peer, now.instant)
        before = record.dropped
        if before is not None and now.instant < before.until:
            self._cut.add(peer)
            return before  # more of the same, from before it was gone
        times = before.times + 1 if before is not None and now.instant - before.at < FORGIVEN_MS else 1
        bench_ms = min(MAX_BENCH_MS, FIRST_BENCH_MS << min(times - 1, 10))
        record.dropped = Dropped(reason[:MAX_REASON_CHARS], now.wall_ms, now.instant, times, now.instant + bench_ms)
        self._cut.add(peer)
        self._kept_out[peer] = record.dropped.until
        return record.dropped

    def dropped(self, peer: PeerId, now: Instant) -> Dropped | None:
        """Why and when it was dropped last, if that is not forgiven."""
        record = self._records.get(peer)
        if record is None or record.dropped is None or now - record.dropped.at >= FORGIVEN_MS:
            return None
        return record.dropped

    def kept_out(self, now: Instant) -> frozenset[PeerId]:
        """Who is not let in."""
        if not self._kept_out:
            return frozenset()
        self._kept_out = {peer: until for peer, until in self._kept_out.items() if now < until}
        return frozenset(self._kept_out)

    def keeps_out(self, peer: PeerId) -> bool:
        """Whether it is not let in, as of the last `kept_out`."""
        return peer in self._kept_out

    def deadline(self) -> Instant | None:
        """When the next one is let in again."""
        return min(self._kept_out.values(), default=None)

    def _record(self, peer: PeerId, now: Instant) -> _Record:
        record = self._records.get(peer)
        if record is None:
            record = self._records[peer] = _Record(now)
            while len(self._records) > MAX_PEERS:
                gone, _ = self._records.popitem(last=False)
                self._cut.discard(gone)
                self._kept_out.pop(gone, None)
        else:
            self._records.move_to_end(peer)
        return record


def work_of(message: WireMessage) -> int:
    """What a message costs here, in units."""
    match message:
        case Envelopes():
            return 1 + sum(1 + len(envelope.update) // BYTES_PER_UNIT for envelope in message.envelopes)
        case RecordOffer():
            return 1 + len(message.records)
        case Ack():
            return 1 + len(message.disclosed) + len(message.yields) // SMALL_PER_UNIT
        case Bye():
            return 1 + len(message.known)
        case Claim():
            return 1 + _work_of_names(message.claim.resources)
        case Hello() | Heads():
            return 1 + len(message.heads) // SMALL_PER_UNIT
        case Members():
            return 1 + len(message.members) // SMALL_PER_UNIT
        case Renew():
            return 1 + len(message.numbers) // SMALL_PER_UNIT
        case RenewAck():
            return 1 + len(message.unsettled)  # each is claimed anew
        case StrictAsk(op=op):
            return 1 + (_work_of_names(op.claim.resources) if isinstance(op, StrictAcquire) else len(op.claims) // SMALL_PER_UNIT)
        case Presence() | Granted() | End() | StrictAnswer():
            return 1
        case _:
            assert_never(message)


def _work_of_names(resources: tuple[Resource, ...]) -> int:
    return len(resources) // NAMES_PER_UNIT + UNITS_OF_PATTERN * pattern_count(resources)
