"""The node: routes inputs to machines, facts between them, and effects out. It decides nothing itself.

    handle(input, now) -> effects        deadline() -> when it wants a `Ticked`

Laws: timers that are due run before any input, so nothing is decided on what has lapsed while the machine slept; of one step,
all writes come first, in one transaction, then all else; what one step has to say to one peer goes in as few frames as fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from random import Random
from typing import Final, assert_never

from sudocode_coordination import __version__
from sudocode_coordination.api.events import Event
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.agents import Agents
from sudocode_coordination.core.beats import PRESENCE_TOPIC, Beats
from sudocode_coordination.core.departed import Departed
from sudocode_coordination.core.desk import Desk
from sudocode_coordination.core.discovery import Discovery
from sudocode_coordination.core.electorate import Electorate
from sudocode_coordination.core.facts import (
    EntriesChanged,
    Misbehaved,
    Notify,
    Output,
    Respond,
    RosterChanged,
    Say,
    StrictDropped,
    StrictGranted,
    StrictLost,
    StrictRefused,
    StrictWanted,
    Write,
)
from sudocode_coordination.core.file_diffs import FileDiffs
from sudocode_coordination.core.foretelling import described
from sudocode_coordination.core.io import (
    AddressesSighted,
    Admit,
    BranchPublished,
    BranchPublishFailed,
    BranchRead,
    BranchReadFailed,
    BuildTable,
    ClientGone,
    Dial,
    DialFailed,
    DiskFailed,
    DiskWorks,
    Effect,
    Emit,
    ForetellMerge,
    FrameReceived,
    Gossip,
    GossipReceived,
    HangUp,
    Input,
    Listening,
    MergeForetold,
    PeerConnected,
    PeerDisconnected,
    PeerMisbehaved,
    PeerMoved,
    PeerRefused,
    Persist,
    Publish,
    ReadBranch,
    ReadTable,
    RecordsSighted,
    Reply,
    RequestCancelled,
    RequestReceived,
    Send,
    ShowRecord,
    Started,
    Stopped,
    StopRequested,
    SwapTable,
    TableBuilt,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
    Ticked,
    Upgrade,
    UpgradeFailed,
    UseRelays,
    WorkSeen,
    WorkUnseen,
)
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.leases import LeaseManager
from sudocode_coordination.core.life import start, stop
from sudocode_coordination.core.membership import Membership
from sudocode_coordination.core.messages import Messages
from sudocode_coordination.core.seeking import Seeking
from sudocode_coordination.core.sessions import Sessions
from sudocode_coordination.core.step import Step
from sudocode_coordination.core.strict import StrictLeases
from sudocode_coordination.core.sync import SYNC_TOPIC, Sync
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
    StrictAnswer,
    StrictAsk,
    WireMessage,
    decode_frame,
)
from sudocode_coordination.errors import ProtocolError, UsageError
from sudocode_coordination.model import AgentId, Instant, Now, PeerId, Resource, earliest, iso_from_ms

GREET_MS: Final = 5_000
"""A connected peer that has not said hello by then is none of ours, or the connection does not work."""
TOGETHER: Final = (FrameReceived, GossipReceived, RequestReceived, RequestCancelled, ClientGone)
"""Most inputs: what peers and clients say. They are in nobody's way, and may be taken with others in one step."""
_QUIET: Final = (Ticked, *TOGETHER)
"""They say nothing of who is there, but for a few messages."""


class Node:
    """One clone's whole state, and every decision about it."""

    def __init__(self, config: CoordinationConfig, keyring: Keyring) -> None:
        self._config = config
        self.peer_id = self._me = keyring.peer_id
        self.folds_case = config.ignore_case is True
        self.rng = rng = Random(0)
        self.sync = Sync(keyring, rng, __version__)
        self.discovery = Discovery(keyring, config, rng)
        self.membership = Membership(self._me, config, rng)
        self.leases = LeaseManager(self._me, config, keyring)
        self.departed = Departed()
        self.agents = Agents(self._me, config.agent_id, config.capabilities, self.sync, fold_case=self.folds_case)
        self.beats = Beats(keyring)
        self.messages = Messages(self._me, self.sync, rng, self._concerned)
        self.diffs = FileDiffs(self._me, self.sync, partial(described, self), enabled=config.enable_file_diffs)
        self.sessions = Sessions()
        self.strict = StrictLeases(self._me, config, rng, self.leases.is_over)
        self.desk = Desk(self, config)
        self.electorate = Electorate(self._me, config, self.leases, self.discovery, self.membership)
        self.roster = self.electorate.roster
        self._machines = (
            *(self.membership, self.electorate, self.leases, self.strict),
            *(self.sync, self.discovery, self.messages, self.sessions, self.diffs),
        )
        self._now = Now(0, 0)
        self._seeking = Seeking()
        self._greet_by: dict[PeerId, Instant] = {}
        """Connected peers that have not said hello, and until when they may."""
        self.stop_by: Instant | None = None
        self._done = False
        self._view_stale = False
        """This step may change who counts; the mere passing of time is the electorate's deadline."""
        self._ends: list[tuple[PeerId, End]] = []
        self._times: tuple[Instant | None, ...] | None = None
        """Deadlines of the machines, and the first of `_greet_by`: from the end of one step to the next."""
        self._first: Instant | None = None
        """The earliest of those."""
        self.listening: tuple[str, ...] = ()
        self.stopping = False
        self.disk_trouble: str | None = None
        self.started_wall_ms = 0

    # --- the door ---------------------------------------------------------------------------------------------------------

    def handle(self, given: Input, now: Now, more: Iterable[Input] = ()) -> list[Effect]:
        """Take an input in; what is to be done, in order.

        Args:
            more: inputs of `TOGETHER` that have come since. They are taken in the same step, one after the other as they are asked
                for: one write, and one frame for each peer, for all of it.
        """
        due, self._times = self._deadlines(), None
        is_due = self._first is not None and self._first <= now.instant
        self._now = now
        self._view_stale = not isinstance(given, _QUIET)
        step = Step()
        self.leases.begin_step(now.instant if isinstance(given, DiskFailed) else None)
        if not isinstance(given, Started):
            late_ms = given.late_ms if isinstance(given, Ticked) else 0
            if is_due or late_ms:
                self._route(self._tick(due, now, late_ms), step, now)
        self._route(self._take(given, now), step, now)
        for another in more:
            if self._view_stale:
                self._route(self._look_around(now), step, now)
            self._route(self._take(another, now), step, now)
        self._route(self.leases.settle(now), step, now)
        self._route(self._look_around(now), step, now)
        while strict := self.strict.flush(now):
            self._route(strict, step, now)
        self._route([*self.desk.following.due()], step, now)
        over = self.discovery.stopped and self.strict.quiet
        if self.stopping and not self._done and (over or now.instant >= (self.stop_by or 0)):
            self._done = True
            step.effects.append(Stopped(record_left=self.discovery.record_left))
        step.publish(self.sync.written(now))
        untold, self._ends = self._ends, step.ends
        return step.finish_after_failure(untold) if isinstance(given, DiskFailed) else step.finish()

    def deadline(self) -> Instant | None:
        """When it wants a `Ticked`; None: it waits for inputs only."""
        if self._done:
            return None
        self._deadlines()
        seek_at = None if self.stopping else self._seeking.deadline(self.membership.longing())
        return earliest(self._first, self.stop_by, seek_at)

    def _deadlines(self) -> tuple[Instant | None, ...]:
        if self._times is None:
            greet_by = min(self._greet_by.values()) if self._greet_by else None
            self._times = (*[machine.deadline() for machine in self._machines], greet_by)
            self._first = earliest(*self._times)
        return self._times

    # --- in ---------------------------------------------------------------------------------------------------------------

    def _tick(self, due: tuple[Instant | None, ...], now: Now, late_ms: int) -> list[Output]:
        instant = now.instant
        due_now = [at is not None and at <= instant for at in due]
        membership, electorate, leases, strict, sync, discovery, messages, sessions, diffs, greet = due_now
        out: list[Output] = []
        if membership or late_ms:
            out += self.membership.ticked(now, late_ms)
        if electorate or late_ms:
            out += self.view_changed(now)
        if leases:
            out += self.leases.ticked(now)
        if strict:
            out += self.strict.flush(now)
        if sync:
            out += self.sync.ticked(now)
        if discovery or late_ms:
            out += self.discovery.ticked(now, late_ms)
        if messages:
            out += self.messages.ticked(now)
        if sessions:
            out += self.desk.silent_ones_leave(now)
        if diffs:
            out += self.diffs.ticked(now)
        for peer in sorted(peer for peer, by in self._greet_by.items() if by <= instant) if greet else ():
            del self._greet_by[peer]
            out.append(HangUp(peer=peer, reason="no hello"))
        return out

    def _take(self, given: Input, now: Now) -> list[Output]:
        match given:
            case Started():
                return start(self, given, now)
            case Ticked():
                return []
            case Listening(addresses=addresses):
                self.listening = addresses
                return self.discovery.listening(addresses, now)
            case PeerConnected():
                return self._connected(given, now)
            case PeerDisconnected(peer=peer):
                self._greet_by.pop(peer, None)
                out = self.membership.disconnected(given, now) + self.sync.peer_down(peer, now)
                return out + self.discovery.connected_changed(self.membership.connected_peers, now)
            case PeerMoved() | UpgradeFailed():
                return self.membership.upgraded(given, now)
            case DialFailed():
                return self.membership.dial_failed(given, now)
            case PeerRefused(peer=peer, address=address):
                return self.discovery.knocked(peer, address, now)
            case PeerMisbehaved(peer=peer, reason=reason, keep_out=keep_out):
                return self.membership.misbehaved(peer, reason, now, keep_out=keep_out)
            case RecordsSighted() | AddressesSighted():
                return self.discovery.sighted(given, now)
            case FrameReceived(peer=peer, frame=frame):
                return self._frame(peer, frame, now)
            case GossipReceived(topic=topic, data=data):
                return self._gossip(topic, data, now)
            case BranchRead():
                out = self.discovery.branch_read(given, now) + self.electorate.branch_read(now)
                out += self.desk.branch_looked_at(None, now)
                return out + self._drop_departed(now)
            case BranchReadFailed(reason=reason):
                return self.discovery.branch_read_failed(given, now) + self.desk.branch_looked_at(reason, now)
            case BranchPublished():
                self.desk.pushed()
                return self.discovery.branch_published(given, now)
            case BranchPublishFailed():
                return self.discovery.branch_publish_failed(given, now)
            case TableRead() | TableReadFailed() | TableSwapped() | TableSwapFailed() | TableBuilt():
                out = self.strict.writer.took(given, now)
                if isinstance(given, TableRead | TableReadFailed) and not self.strict.writer.is_reading:
                    out += self.desk.table_looked_at(given.reason if isinstance(given, TableReadFailed) else None)
                return out
            case RequestReceived():
                return self.desk.asked(given, now)
            case RequestCancelled(client=client, request_id=request_id):
                return self.desk.cancelled(client, request_id, now)
            case ClientGone(client=client):
                return self.desk.client_gone(client, now)
            case DiskFailed(reason=reason):
                self.disk_trouble = f"{iso_from_ms(now.wall_ms)}: {reason}"
                self.sync.disk_failed(now)
                self.strict.disk_failed()
                self.electorate.disk_failed()
                self.discovery.memory.disk_failed()
                return self.leases.disk_failed(now)
            case DiskWorks():
                self.disk_trouble = None
                self.strict.fenced.disk_works()
                return []
            case WorkSeen():
                return self.diffs.seen(given, now)
            case WorkUnseen():
                return self.diffs.unseen(given)
            case MergeForetold():
                return self.diffs.foretold(given, now)
            case StopRequested(hand_over=hand_over):
                return stop(self, now, hand_over=hand_over)
            case _:
                assert_never(given)

    def _connected(self, given: PeerConnected, now: Now) -> list[Output]:
        peer = given.peer
        self._greet_by[peer] = now.instant + GREET_MS
        out: list[Output] = [
            Say(peer=peer, message=Hello(version=__version__, incarnation=self.sync.incarnation, heads=self.sync.greeting(now)))
        ]
        out += self.membership.connected(given, now) + self.electorate.greet(peer, now)
        out += self.sync.peer_up(peer, now)
        out += self.discovery.connected_changed(self.membership.connected_peers, now)
        out += self.view_changed(now)
        return out + self.leases.peer_up(peer, now)

    def _frame(self, peer: PeerId, frame: bytes, now: Now) -> list[Output]:
        conduct = self.membership.conduct
        if peer not in self.membership.connected_peers or not conduct.listens_to(peer):
            return []
        try:
            conduct.frame(peer, len(frame), now.instant)
            messages = decode_frame(frame)
            conduct.messages(peer, messages, now.instant)
        except ProtocolError as error:
            return self.membership.misbehaved(peer, error.message, now)
        self.membership.heard(peer, now)
        out: list[Output] = []
        for message in messages:
            done = self._message(peer, message, now)
            out += done
            if any(isinstance(output, Misbehaved) for output in done):
                break
        return out

    def _message(self, peer: PeerId, message: WireMessage, now: Now) -> list[Output]:
        match message:
            case Claim() | Ack() | Granted() | End() | Renew() | RenewAck():
                return self.leases.take(peer, message, now)
            case Heads() | Envelopes():
                return self.sync.received(peer, message, now)
            case Presence():
                return self.membership.presence(peer, message, now)
            case Hello(incarnation=incarnation, heads=heads):
                self._view_stale = True
                self.roster.back(peer)
                self._greet_by.pop(peer, None)
                return self.leases.peer_started(peer, incarnation, now) + self.sync.greeted(peer, heads, now)
            case Members():
                self._view_stale = True
                self.electorate.heard(peer, message, now)
                return []
            case Bye(known=known, partial=partial):
                self._view_stale = True
                self.membership.said_goodbye(peer)
                self.discovery.memory.said_goodbye(peer)
                whole, out = self.leases.inherit(known, now)
                if whole and not partial:
                    self.roster.left(peer, now.instant)
                return out + self.leases.peer_left(peer, now)
            case RecordOffer():
                return self.discovery.offered(peer, message, now)
            case StrictAsk() | StrictAnswer():
                return self.strict.received(peer, message, now)
            case _:
                assert_never(message)

    def _gossip(self, topic: str, data: bytes, now: Now) -> list[Output]:
        if topic == SYNC_TOPIC:
            return self.sync.gossiped(data, now)
        if topic == PRESENCE_TOPIC and (peer := self.beats.heard(data, self.discovery.known)) is not None:
            self.leases.peer_alive(peer, now)
        return []

    # --- around -------------------------------------------------------------------------------------------------------------

    def _all_connected(self) -> bool:
        connected, gone = self.membership.connected_peers, self.membership.gone(self._now.instant)
        return all(peer in connected or peer in gone or peer == self._me for peer in self.discovery.roster)

    def view_changed(self, now: Now) -> list[Output]:
        self.sync.set_reachability(self._all_connected())
        return self.electorate.changed(now)

    def _drop_departed(self, now: Now) -> list[Output]:
        present = {self._me, *self.discovery.known, *self.membership.connected_peers}
        over, operations = self.departed.looked(self.sync.known_owners(), present, now)
        out: list[Output] = [Persist(operations=operations)] if operations else []
        for owner in over:
            out += self.sync.forget_owner(owner)
        return out

    def _look_around(self, now: Now) -> list[Output]:
        """What follows from the step as a whole: who counts, and whether to look for new addresses."""
        out = self.view_changed(now) if self._view_stale else []
        self._view_stale = False
        self.strict.view_changed(self.leases.view, now)
        if not self.stopping and self._seeking.is_due(self.membership.longing(), now.instant):
            out += self.discovery.refresh_requested(now)
        return out

    def _concerned(self, resource: Resource, instant: Instant) -> frozenset[AgentId]:
        """Agents of this clone that hold it, wait for it or work on it."""
        touching = self.leases.claims.touching((resource,), instant, fold_case=self.folds_case)
        return self.agents.working_on(resource) | {known.body.agent for known in touching if known.owner == self._me}

    # --- out ----------------------------------------------------------------------------------------------------------------

    def _route(self, outputs: list[Output], step: Step, now: Now) -> None:
        """Facts go to the machines they concern, depth first; effects and messages into the step."""
        for output in outputs:
            match output:
                case Say(peer=peer, message=message):
                    step.say(peer, message)
                case Persist(operations=operations):
                    step.operations.extend(operations)
                case Write(root=root, key=key, value=value, urgent=urgent):
                    try:
                        written = self.sync.put(root, key, value, now, urgent=urgent)
                    except UsageError as error:
                        self.desk.trouble(f"{root} {key!r} was not shared: {error}")
                        continue
                    if urgent:
                        step.publish_here()
                    self._route(written, step, now)
                case EntriesChanged(owner=owner, changes=changes):
                    self._route(self.leases.entries_changed(owner, changes, now), step, now)
                    self._route(self.agents.entries_changed(owner, changes, now), step, now)
                    self._route(self.messages.entries_changed(owner, changes, now, tuple(self.agents.local)), step, now)
                    self._route(self.diffs.entries_changed(owner, changes, now), step, now)
                case Misbehaved(peer=peer, reason=reason):
                    self._route(self.membership.misbehaved(peer, reason, now), step, now)
                case RosterChanged():
                    self.sync.store.known = frozenset(self.discovery.known)
                    self._route(self.membership.known_changed(self.discovery.known, now), step, now)
                    self._route(self.view_changed(now), step, now)
                case Respond():
                    self._route(self.desk.respond(output, now), step, now)
                case Notify(type=kind, agent_id=agent, data=data):
                    stamp = iso_from_ms(now.wall_ms)
                    event = Event(type=kind, agent_id=agent or self._config.agent_id, timestamp=stamp, data=data)
                    step.effects.append(Emit(event=event))
                    self.sessions.heard(output, now)
                    if kind == "heartbeat-sent" and not self._all_connected():  # in a full mesh it would only cost time
                        self._route([self.beats.own(self.sync.incarnation, data["count"])], step, now)
                case StrictWanted() | StrictDropped():
                    self._route(self.strict.told(output, now), step, now)
                case StrictGranted() | StrictRefused() | StrictLost():
                    self._route(self.leases.strict_told(output, now), step, now)
                case Dial() | HangUp() | Admit() | Send() | Gossip() | ShowRecord() | ReadBranch() | Publish() | Reply() | Emit():
                    step.effects.append(output)
                case Upgrade() | UseRelays() | ReadTable() | SwapTable() | BuildTable() | ForetellMerge() | Stopped():
                    step.effects.append(output)
                case _:
                    assert_never(output)
