"""The own feed: collects writes, signs them in batches, compacts.

Writes show in the own view at once. They are published together after `FLUSH_MS`, at `FLUSH_BYTES`, or when something is
urgent; several writes to one key in that time become one. A feed begins with a snapshot of the live entries; when what
followed has made it larger than `max(COMPACT_BYTES, COMPACT_FACTOR x snapshot)`, a new epoch begins the same way. So what is
stored and sent stays in proportion to what is alive, however often it changes. (Of the history of leases, which is there for
good, the first `COMPACT_BYTES` count once: a clone that holds nothing stays below twice that.)
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.core.facts import EntryChange, Root
from sudocode_coordination.core.feed import MAX_FEED_BYTES, Feed, FeedStore, encode_envelope, signed_bytes
from sudocode_coordination.core.grammar import parse_update
from sudocode_coordination.core.io import DiskOperation
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.wire import Envelope
from sudocode_coordination.core.writer import Write, batches, check_key, encode_update, encode_value, write_size_bytes
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Instant, Json, Now, WallMs

FLUSH_MS: Final = 50
"""How long a write may wait for others."""
FLUSH_BYTES: Final = 32 << 10
"""So many bytes of writes do not wait."""
COMPACT_BYTES: Final = 16 << 10
"""A feed below this is never compacted: the snapshot would cost more than it saves."""
COMPACT_FACTOR: Final = 4
"""Growth over the last snapshot that calls for the next one; each byte is then sent at most a third more often."""
COMPACT_LIMIT_BYTES: Final = MAX_FEED_BYTES - (2 << 20)
"""Compact before others would refuse the feed, whatever the factor says."""
MAX_LIVE_BYTES: Final = 8 << 20
"""Of all own live entries: leaves room in a feed for their changes between two compactions."""
EPOCH_LEAP: Final = 1 << 16
"""Milliseconds, about a minute: how far an epoch may be ahead of a clock that was set back."""
JOIN_ENVELOPES: Final = 256
"""A joiner should not have to check more signatures than this one by one (0.2 ms each)."""


class Published(NamedTuple):
    """What a flush made: to be written, then sent."""

    operations: list[DiskOperation]
    envelopes: list[Envelope]


class Author:
    """Writes the own feed in `store`."""

    def __init__(self, keyring: Keyring, store: FeedStore, rng: Random) -> None:
        self._rng = rng
        self._keyring = keyring
        self._owner = keyring.peer_id
        self._store = store
        self._dirty: dict[tuple[Root, str], Write] = {}
        self._dirty_bytes = 0
        self._due: Instant | None = None
        self._begin = False
        self._history_bytes = 0
        """Of the snapshot, about what the history of leases takes: at most that."""
        self.epoch = 0

    @property
    def seq(self) -> int:
        """Last one published in the current epoch."""
        feed = self._store.feed(self._owner)
        return 0 if feed is None or feed.epoch != self.epoch else feed.seq

    def begin(self, at_least: int, now: Now, *, delay_ms: int = 0) -> None:
        """Start a new epoch: the greater of `at_least` and the wall clock. Its snapshot is made by the next flush, which is
        due after `delay_ms`, or with the next urgent write."""
        if at_least > now.wall_ms:
            # The clock went back. If the last epoch's number was lost too (power), counting on would use it a second time.
            at_least += self._rng.randrange(EPOCH_LEAP)
        self.epoch = max(at_least, now.wall_ms, 1)
        self._begin = True
        self._due = now.instant + delay_ms

    def deadline(self) -> Instant | None:
        """When `flush` is due."""
        return self._due

    @property
    def must_begin(self) -> bool:
        """The current epoch has no snapshot yet."""
        return self._begin

    def set(self, root: Root, key: str, value: Json | None, now: Now, *, urgent: bool) -> EntryChange | None:
        """Put an entry into the view and queue it; None if nothing changes. Urgent: the flush is due now.

        Raises:
            UsageError: key or value can't be shared, or there is too much of it.
        """
        check_key(key)
        encoded: bytes | None = None
        if value is not None:
            encoded, value = encode_value(value)
        write = Write(root, key, encoded)
        size = write_size_bytes(self._owner, write)
        feed = self._store.feed(self._owner)
        live = 0
        if feed is not None:
            slot = feed.state.slots.get((root, key))
            live = feed.state.live_bytes - (slot.size_bytes if slot is not None else 0)
        if encoded is not None and live + self._dirty_bytes + size > MAX_LIVE_BYTES:
            raise UsageError(
                f"this clone's entries would take more than {MAX_LIVE_BYTES >> 20} MB", hint="remove some before adding more"
            )
        change = self._store.document.put(self._owner, root, key, value)
        if change is not None:
            before = self._dirty.get((root, key))
            self._dirty_bytes += size - (0 if before is None else write_size_bytes(self._owner, before))
            self._dirty[root, key] = write
        if self._dirty and (urgent or self._dirty_bytes >= FLUSH_BYTES):
            self._due = now.instant
        elif self._dirty and self._due is None:
            self._due = now.instant + FLUSH_MS
        return change

    def is_due(self, now: Now) -> bool:
        """Whether a flush should happen."""
        return self._due is not None and self._due <= now.instant

    def flush(self, wall_ms: WallMs) -> Published:
        """Publish what waits; a new epoch first, if one must begin or the feed has grown too much."""
        self._due = None
        feed = self._store.feed(self._owner)
        if self._begin or feed is None:
            return self._snapshot()
        if not self._dirty:
            return Published([], [])
        writes = [self._dirty[name] for name in sorted(self._dirty)]
        history = min(self._history_bytes, COMPACT_BYTES)
        limit = history + max(COMPACT_BYTES, COMPACT_FACTOR * (feed.snapshot_bytes - history))
        if feed.size_bytes + self._dirty_bytes > min(limit, COMPACT_LIMIT_BYTES):
            return self.compact(wall_ms)
        self._clear()
        published = Published([], [])
        for batch in batches(self._owner, writes):
            update = encode_update(feed.state, self._owner, feed.client, batch)
            if update == b"\0\0":
                continue
            envelope = self._sign(feed.epoch, feed.seq + 1, feed.parts, update)
            step = parse_update(feed.state, self._owner, feed.client, update)
            published.operations.append(self._store.append_own(envelope, step))
            published.envelopes.append(envelope)
        return published

    def helps_joiner(self, lacking: int) -> bool:
        """Whether to compact before sending somebody so many own envelopes: many small ones, not a few large."""
        feed = self._store.feed(self._owner)
        if feed is None or lacking <= JOIN_ENVELOPES:
            return False
        # The tail must be worth it: a snapshot goes to everybody.
        tail_bytes = feed.size_bytes - feed.snapshot_bytes
        return feed.seq - feed.parts > JOIN_ENVELOPES and COMPACT_FACTOR * tail_bytes > feed.snapshot_bytes

    def compact(self, wall_ms: WallMs) -> Published:
        """A new epoch with what is alive, dirty writes included."""
        self.epoch = max(self.epoch + 1, wall_ms)
        return self._snapshot()

    def _clear(self) -> None:
        self._dirty.clear()
        self._dirty_bytes = 0

    def _snapshot(self) -> Published:
        self._begin = False
        self._due = None
        self._clear()
        live = self._store.document.contents(self._owner)
        writes = [Write(root, key, encode_value(live[root, key])[0]) for root, key in sorted(live)]
        ended = [write for write in writes if write.root == "leaseHistory"]
        self._history_bytes = sum(len(write.encoded or b"") + len(write.key) + len(self._owner) for write in ended)
        groups = list(batches(self._owner, writes))
        feed = Feed(self._owner, self.epoch, len(groups))
        for group in groups:
            update = encode_update(feed.state, self._owner, feed.client, group)
            envelope = self._sign(feed.epoch, feed.seq + 1, feed.parts, update)
            step = parse_update(feed.state, self._owner, feed.client, update)
            feed.append(envelope, step, len(encode_envelope(envelope)))
        return Published(self._store.install_own(feed), list(feed.envelopes))

    def _sign(self, epoch: int, seq: int, parts: int, update: bytes) -> Envelope:
        bare = Envelope(self._owner, epoch, seq, parts, update, b"")
        return msgspec.structs.replace(bare, signature=self._keyring.sign(signed_bytes(bare)))
