"""Who is there: peers found through records on the coordination branch, and own records kept there.

Laws
- A peer is *fresh* while its record changes: it is stale once a read finds the record unchanged for its ttl on our own clock
  since we first saw it, or if at first sight it was older than its ttl by the wall clocks (60 s are allowed for, and a record
  from the future counts as seen now). While the remote can't be read nobody ages. Connected peers are fresh for as long as
  the branch has a record of theirs.
- Only whoever may push lets a peer in: a peer whose records are gone from the branch is known no more, connected or not, and
  nobody but itself puts them back. If the own record is gone as well, the branch was deleted or reset: connected peers have
  some minutes then to be there again.
- The roster is this peer and all fresh ones.
- Own records come first to the branch by this peer itself, at once: nobody lets it in before. After that the swarm pushes
  through one *publisher*, the connected peer with the lowest id: the others offer it their signed records when a third of the
  ttl has passed or something changed, and push themselves only if a read after two thirds shows that nothing came of it.
- Pushes keep 15 s apart, one is under way at most, failures back off to a minute. Renewals have time and wait to be many.
- A fresh record is never removed; stale ones of others go along with another push, or when there are many.
- Two clones that use one agent id: who published last has the name; the other gives way while that record is fresh, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.admission import Admission, local_rules
from sudocode_coordination.core.facts import Notify, Output, RosterChanged, Say
from sudocode_coordination.core.io import (
    AddressesSighted,
    BranchPublished,
    BranchPublishFailed,
    BranchRead,
    BranchReadFailed,
    DiskContents,
    Persist,
    Publish,
    ReadBranch,
    RecordsSighted,
    ShowRecord,
)
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.nearby import Memory, Neighbours
from sudocode_coordination.core.offers import Offers
from sudocode_coordination.core.own_records import OwnRecords
from sudocode_coordination.core.peer_view import BranchHealth, BranchView, HealthState, KnownPeer, shape
from sudocode_coordination.core.records import Succession, record_name
from sudocode_coordination.core.wire import RecordOffer
from sudocode_coordination.model import AgentId, Instant, Now, PeerId, earliest

PUBLISH_GAP_MS: Final = 15_000
"""Between two pushes of this peer: four a minute at most; hosts ask for no more than six in a repository."""
RETRY_MS: Final = 2_000
"""First wait after a failed read or push, doubled each time."""
MAX_RETRY_MS: Final = 60_000
"""Longest wait after failures."""
KNOCK_GAP_MS: Final = 1_000
"""Between two looks at the branch for whatever reason."""
KNOCK_BURST: Final = 10
"""Looks that strangers can cause in a row …"""
KNOCK_REFILL_MS: Final = 6_000
"""… and one more each time this has passed: a port scan must not become a flood of fetches."""
LOST_PEER_LOOK_MS: Final = 3_000
"""After a peer disconnected: by then one that stopped has removed its record."""
REMOVAL_VIEW_MS: Final = 10_000
"""How old a read may be to remove others' records by: its owner may be back since."""
MANY_STALE: Final = 50
"""Stale records that are worth a push of their own."""

__all__ = ["BranchHealth", "Discovery", "KnownPeer"]


class Discovery:
    """The machine. Methods take what happened and return what is to be done; times are `Now`, so both clocks.

    Args:
        keyring: own identity, and signatures of others.
        config: `peer_discovery_interval_ms` and `record_ttl_ms` are what counts here.
        rng: dice for jitter.
    """

    def __init__(self, keyring: Keyring, config: CoordinationConfig, rng: Random) -> None:
        self._keyring = keyring
        self._self = keyring.peer_id
        self._ttl = config.record_ttl_ms
        self._interval = config.peer_discovery_interval_ms
        self._rng = rng
        self._own = OwnRecords(keyring, config.record_ttl_ms, rng, relay=config.relay_service)
        self._connected: frozenset[PeerId] = frozenset()
        self.admission = Admission()
        """Who may join, and who was refused."""
        self.admission.rules = local_rules(config)  # until a read tells those of the repository
        self._view = BranchView(keyring, self.admission, config.peer_discovery_interval_ms)
        self._offers = Offers(keyring, self._view, PUBLISH_GAP_MS)
        self.memory = Memory(keyring)
        """What the disk keeps of the branch."""
        self._neighbours = Neighbours(keyring)
        self._commit: str | None = None
        # Worked out anew when the branch or the connections have changed, and not at every question for a deadline.
        self._changed = True
        self._known: dict[PeerId, KnownPeer] = {}
        self._roster: tuple[PeerId, ...] = (self._self,)
        self._publisher = self._self
        self._removable: list[str] = []
        self._discovered: frozenset[tuple[PeerId, AgentId]] = frozenset()
        # reading
        self._acts_at: Instant | None = None
        """When `_act` has something to do next: whatever changes it ends with `_act`."""
        self._next_read: Instant | None = None
        self._reading_since: Instant | None = None
        self._read_again = False
        self._last_read_started: Instant | None = None
        self._read_ended_at: Instant = 0
        self._read_failures = 0
        self._read_error = ""
        self._roster_read_at: Instant | None = None
        self._first_read_done = False
        self._knocks = float(KNOCK_BURST)
        self._knocks_at: Instant = 0
        # publishing
        self._ticket = 0
        self._in_flight: Publish | None = None
        self._not_before: Instant = 0
        self._publish_failures = 0
        self._publish_error, self._waits_for_view = "", False
        self._stopping = self._stopped = False
        self.record_left = "the git remote did not answer in time"
        """After `stop`: why own records are on the branch still; empty once they are removed."""
        self._health = BranchHealth(state="unknown", since_ms=0)

    # --- what the rest of the node asks ------------------------------------------------------------------------------------

    @property
    def known(self) -> Mapping[PeerId, KnownPeer]:
        """The other peers that have a record, in order of their ids."""
        return MappingProxyType(self._known)

    @property
    def roster(self) -> tuple[PeerId, ...]:
        """All peers to be in touch with, this one included, sorted. Who counts for a quorum is told by `on_branch`."""
        return self._roster

    @property
    def on_branch(self) -> frozenset[PeerId]:
        """The others whose records the latest read showed, and that are renewed. To be connected gives a record no life."""
        return self._view.fresh_peers()

    def own_record_until(self, agent: AgentId) -> Instant | None:
        """Until when others count this peer by that record of it: 0 if it is of an earlier life, None if there is none."""
        return self._own.counts_until(record_name(agent))

    @property
    def roster_read_at(self) -> Instant | None:
        """When the latest successful read was asked for; the branch was seen no earlier than that."""
        return self._roster_read_at

    @property
    def branch_commit(self) -> str | None:
        """The branch's tip as last seen; None if there is no branch, or it was never read."""
        return self._commit

    @property
    def health(self) -> BranchHealth:
        """How it stands with the git remote."""
        return self._health

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files on the branch that do not count -> why."""
        return MappingProxyType({**self._view.skipped, **self._own.conflicts})

    def clashes(self, instant: Instant) -> list[str]:
        """Agent ids, or a key, that another clone uses too."""
        found = self._own.clashes(instant)
        successor = self._view.superseded.get(self._self)
        if successor is not None:
            found.append(
                f"this clone's key has named peer {successor} to follow it, so that others refuse this clone: it was restored "
                "from before coord rotate-key, or somebody else has the key; coord rotate-key makes another, and denied_peers "
                "keeps that one out"
            )
        return found

    @property
    def first_read_done(self) -> bool:
        """Whether the remote has been tried once, with whatever success."""
        return self._first_read_done

    @property
    def published(self) -> bool:
        """Whether all own records are on the branch, as far as is known."""
        return self._own.published

    @property
    def stopped(self) -> bool:
        """After `stop`: whether the own records are removed, or that has failed."""
        return self._stopped

    def deadline(self) -> Instant | None:
        """When `ticked` has something to do next."""
        return None if self._stopping else self._acts_at

    # --- what happens ------------------------------------------------------------------------------------------------------

    def started(self, now: Now, contents: DiskContents, formerly: tuple[Succession, ...] = ()) -> list[Output]:
        """First of all: look at the branch. Until it was read, those are let in whom an earlier life has found on it.
        `formerly`: the ids that this peer had before, the latest first."""
        self._view.formerly = frozenset(former.peer for former in formerly)
        if formerly:
            self._own.rotated(formerly[0])
        self._view.remember(self.memory.started(contents, now))
        self._changed = True
        self._health = BranchHealth(state="unknown", since_ms=now.wall_ms)
        self._next_read = now.instant
        self._knocks_at = now.instant
        return self._act(now)

    def ticked(self, now: Now, late_ms: int = 0) -> list[Output]:
        """Time has passed. After a pause of this machine the branch is looked at at once: nobody aged unseen."""
        if late_ms > KNOCK_GAP_MS:
            self._look(now.instant)
        return self._act(now)

    def listening(self, addresses: tuple[str, ...], now: Now) -> list[Output]:
        """The own addresses are these."""
        self._own.set_addresses(addresses, now.instant)
        return self._act(now)

    def agents_changed(self, agents: Mapping[AgentId, tuple[str, ...]], now: Now) -> list[Output]:
        """The agents of this clone are these, with their capabilities."""
        self._own.set_agents(agents, now.instant)
        return self._act(now)

    def connected_changed(self, connected: frozenset[PeerId], now: Now) -> list[Output]:
        """These peers are connected."""
        lost = self._connected - connected
        self._changed = self._changed or connected != self._connected
        self._connected = connected
        self._offers.keep(connected)
        if lost and self._spend_knock(now.instant):
            self._look(now.instant + LOST_PEER_LOOK_MS)
        return self._act(now)

    def sighted(self, given: RecordsSighted | AddressesSighted, now: Now) -> list[Output]:
        """Neighbours show themselves: on this machine, or on the local network."""
        self._changed = self._neighbours.sighted(given) or self._changed
        return self._act(now)

    def knocked(self, peer: PeerId, address: str, now: Now) -> list[Output]:
        """A peer that is not let in tried to connect: it may have published since the last look."""
        self.admission.knocked(peer, address, now)
        known = self._known.get(peer)
        if (known is None or not known.fresh) and self._spend_knock(now.instant):
            self._look(now.instant)
        return self._act(now)

    def refresh_requested(self, now: Now) -> list[Output]:
        """Somebody wants a fresh view, whatever failed before."""
        self._look(now.instant)
        if self._read_failures and self._reading_since is None and self._last_read_started is not None:
            self._next_read = max(now.instant, self._last_read_started + RETRY_MS)
        return self._act(now)

    def offered(self, peer: PeerId, offer: RecordOffer, now: Now) -> list[Output]:
        """A connected peer asks to have its records published."""
        for data in () if self._stopping else offer.records:
            self._offers.take(peer, data, self._connected, now)
        return self._act(now)

    def branch_read(self, read: BranchRead, now: Now) -> list[Output]:
        """The branch, as it was some time after it was asked for."""
        asked = self._reading_since if self._reading_since is not None else now.instant
        self._read_ended(now)
        self._read_failures = 0
        self._read_error = ""
        self._roster_read_at = asked
        self._schedule_read(now.instant, self._jittered(self._interval))
        self._changed = True
        self._commit = read.commit
        own = self._view.take(read, self._connected, now, asked)
        self._own.branch_read(own, self._view.fresh_names(self._connected), now.instant, self._view.former_names)
        self._offers.branch_read()
        self._note_health(now)
        operations = self.memory.branch_read(self._view, now)
        kept: list[Output] = [Persist(operations=tuple(operations))] if operations else []
        return [*self._view.rotations(), *kept, *self._act(now)]

    def branch_read_failed(self, failure: BranchReadFailed, now: Now) -> list[Output]:
        """The remote could not be read; tried again sooner than after a success, but ever less often."""
        self._read_ended(now)
        self._read_error = failure.reason
        self._read_again = False
        self._schedule_read(now.instant, self._backoff(self._read_failures))
        self._read_failures += 1
        self._note_health(now)
        return self._act(now)

    def branch_published(self, done: BranchPublished, now: Now) -> list[Output]:
        """Our changes are on the branch."""
        flight = self._in_flight
        if flight is None or flight.ticket != done.ticket:
            return self._act(now)
        self._in_flight = None
        if flight.final:
            self._stopped = True
            self.record_left = ""
            return []
        self._publish_failures = 0
        self._publish_error = ""
        self._commit = done.commit or None
        self._changed = True
        self._own.published_now(flight.changes, now.instant)
        self._offers.published(flight.changes)
        self._not_before = now.instant + PUBLISH_GAP_MS
        # Of two that published at the same time, the later one finds the other by this look.
        self._look(now.instant)
        self._note_health(now)
        return self._act(now)

    def branch_publish_failed(self, failure: BranchPublishFailed, now: Now) -> list[Output]:
        """Our changes did not get through, or we do not know it: the next read tells."""
        flight = self._in_flight
        if flight is None or flight.ticket != failure.ticket:
            return self._act(now)
        self._in_flight = None
        if flight.final:
            self._stopped = True
            self.record_left = failure.reason
            return []
        self._publish_error = failure.reason
        wait = self._backoff(self._publish_failures)
        self._publish_failures += 1
        self._not_before = now.instant + wait
        self._look(now.instant + RETRY_MS // 2)
        self._note_health(now)
        return self._act(now)

    def stop(self, now: Now, *, keep_record: bool = False) -> list[Output]:
        """Remove the own records, also what a push under way may still write. `stopped` tells when that is done.
        `keep_record`: leave them to who comes after."""
        del now
        if self._stopping:
            return []
        self._stopping = True
        names = () if keep_record else self._own.names_to_remove()
        if not names:
            self._stopped = True
            self.record_left = ""
            return []
        self._ticket += 1
        self._in_flight = Publish(ticket=self._ticket, changes=dict.fromkeys(names), final=True)
        return [self._in_flight]

    # --- reading -----------------------------------------------------------------------------------------------------------

    def _look(self, at: Instant) -> None:
        """Read the branch at that time, or soon after what is under way."""
        if self._reading_since is not None:
            self._read_again = True
        elif self._read_failures == 0:
            self._next_read = at if self._next_read is None else min(self._next_read, at)

    def _read_ended(self, now: Now) -> None:
        self._reading_since = None
        self._read_ended_at = now.instant
        self._first_read_done = True
        self._waits_for_view = False

    def _schedule_read(self, instant: Instant, wait: int) -> None:
        self._next_read = instant + (KNOCK_GAP_MS if self._read_again else wait)
        self._read_again = False

    def _read_due(self) -> Instant | None:
        if self._stopping or self._reading_since is not None or self._next_read is None:
            return None
        gap = self._last_read_started + KNOCK_GAP_MS if self._last_read_started is not None else self._next_read
        return max(self._next_read, gap)

    def _spend_knock(self, instant: Instant) -> bool:
        self._knocks = min(KNOCK_BURST, self._knocks + (instant - self._knocks_at) / KNOCK_REFILL_MS)
        self._knocks_at = instant
        if self._knocks < 1:
            return False
        self._knocks -= 1
        return True

    def _jittered(self, wait: int) -> int:
        """A little less: what is configured is the longest that a newcomer waits, and somebody removed stays."""
        return int(wait * self._rng.uniform(0.8, 1.0))

    def _backoff(self, failures: int) -> int:
        return int(min(RETRY_MS << min(failures, 10), MAX_RETRY_MS) * self._rng.uniform(1.0, 1.2))

    def _note_health(self, now: Now) -> None:
        reason = self._read_error or (self._publish_error and f"publishing: {self._publish_error}")
        state: HealthState = "unreachable" if reason else "ok"
        since = self._health.since_ms if state == self._health.state else now.wall_ms
        self._health = BranchHealth(state=state, since_ms=since, reason=reason)

    # --- publishing --------------------------------------------------------------------------------------------------------

    def _publish_due(self) -> Instant | None:
        """When to push next; None if there is nothing to push, or something else has to happen first."""
        if self._stopping or self._in_flight is not None or self._waits_for_view or not self._own.ready:
            return None
        if self._roster_read_at is None or self._read_error:
            return None  # what can't be read can't be pushed to; the next read comes soon
        leads = self._publisher == self._self
        times = self._own.publish_times(leads=leads, read_at=self._roster_read_at)
        if leads:
            times.extend(self._offers.times())
            if len(self._stale()) >= MANY_STALE:
                times.append(self._not_before)
        earliest = min(times, default=None)
        if earliest is None:
            return None
        return max(earliest, self._not_before)

    def _stale(self) -> list[str]:
        return [name for name in self._removable if name not in self._offers]

    def _publish(self, now: Now) -> list[Output]:
        leads = self._publisher == self._self
        stale = self._stale() if leads else []
        if stale and now.instant - self._read_ended_at > REMOVAL_VIEW_MS:
            self._waits_for_view = True
            self._look(now.instant)
            return []
        changes: dict[str, bytes | None] = dict.fromkeys(stale)
        beside: dict[str, tuple[str, ...]] = {}
        if leads:
            offered, beside = self._offers.changes()
            changes.update(offered)
        changes.update(self._own.changes(now))
        self._ticket += 1
        self._in_flight = Publish(ticket=self._ticket, changes=changes, beside=beside)
        return [self._in_flight]

    def _offer_due(self) -> Instant | None:
        publisher = self._publisher
        if self._stopping or publisher == self._self or self._roster_read_at is None:
            return None
        return self._own.offer_time(publisher)

    # --- all together ------------------------------------------------------------------------------------------------------

    def _act(self, now: Now) -> list[Output]:
        """What follows from the state as it is now: a new view, and whatever is due."""
        outputs = self._show()
        shown = self._own.for_neighbours(now) if not self._stopping else None
        if shown is not None:
            outputs.append(ShowRecord(data=shown))
        due = self._publish_due()
        if due is not None and due <= now.instant:
            outputs.extend(self._publish(now))
        due = self._offer_due()
        if due is not None and due <= now.instant:
            publisher = self._publisher
            outputs.append(Say(peer=publisher, message=RecordOffer(records=self._own.offer(publisher, now))))
        due = self._read_due()
        if due is not None and due <= now.instant:
            self._next_read = None
            self._reading_since = self._last_read_started = now.instant
            outputs.append(ReadBranch())
        self._acts_at = earliest(self._read_due(), self._publish_due(), self._offer_due())
        return outputs

    def _show(self) -> list[Output]:
        """Work out what follows from branch and connections, and tell what changed."""
        if not self._changed:
            return []
        self._changed = False
        known = self._neighbours.beside(self._view.known(self._connected))
        self._removable = self._view.removable(self._connected)
        # Who pushes for the connected swarm. A peer that is not on the branch itself leads nobody.
        candidates = {p for p in known if p in self._connected and self._view.names_of(p)}
        if self._own.ever_published:
            candidates.add(self._self)
        self._publisher = min(candidates, default=self._self)
        changed = shape(known) != shape(self._known)
        self._known = known
        self._roster = tuple(sorted({self._self, *(peer for peer, entry in known.items() if entry.fresh)}))
        if not changed:
            return []
        outputs: list[Output] = [RosterChanged()]
        found = {(peer, agent) for peer, entry in known.items() if entry.fresh for agent in entry.agents}
        for peer, agent in sorted(found - self._discovered):
            record = known[peer].agents[agent]
            data = {"peerId": peer, "addresses": list(record.multiaddrs), "capabilities": list(record.capabilities)}
            outputs.append(Notify(type="peer-discovered", agent_id=agent, data=data))
        self._discovered = frozenset(found)
        return outputs
