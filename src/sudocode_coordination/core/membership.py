"""Who is there: dials known peers until they are connected, keeps beats going, tells who is suspected and who is gone.

    known --dial--> connected --lost--> known, with backoff
                    relayed: connected through a relay, because no direct address answered; upgraded again and again
    suspected: not connected for `SUSPECT_MS`, or for `REFUSED_MS` if a dial has failed
    gone:      suspected for longer than the configured grace
    kept out:  broke a rule; neither dialled nor let in for a while (`conduct.py`)

Laws: every fresh known peer that is not connected is dialled again and again, never faster than its backoff; a peer that was
not tried yet is never suspected; after a pause of this process nobody is suspected before it was tried anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.conduct import Conduct
from sudocode_coordination.core.discovery import KnownPeer
from sudocode_coordination.core.facts import Notify, Output, Say
from sudocode_coordination.core.io import (
    Admit,
    Dial,
    DialFailed,
    HangUp,
    PeerConnected,
    PeerDisconnected,
    PeerMoved,
    Upgrade,
    UpgradeFailed,
)
from sudocode_coordination.core.relays import Relays, direct
from sudocode_coordination.core.wire import Presence
from sudocode_coordination.model import AgentId, ConnectionKind, Instant, Now, PeerId, WallMs, earliest, iso_from_ms

FIRST_BACKOFF_MS: Final = 400
MAX_BACKOFF_MS: Final = 15_000
"""A peer that is back is found within that even if nobody tells; it dials by itself too."""
COURTESY_MS: Final = 300
"""The peer with the higher id dials later, so that two who learn of each other at once do not cross."""
SUSPECT_MS: Final = 5_000
"""Away, or unanswered, for longer: others need not wait for it."""
REFUSED_MS: Final = 2_000
"""The same if a dial has failed. Not at once: a peer that has yet to read our record refuses us, and lets us in a moment later."""
RELAY_PATIENCE_MS: Final = 2_000
"""Until a relay is tried while direct addresses do not answer: time for a lost packet to be repeated, and no more, since an agent
waits. That it need not have been is mended by the upgrade."""
UPGRADE_MS: Final = 250
"""From a relayed connection to the first try at a direct one: what the two have to say to each other goes first."""
UPGRADE_BACKOFF_MS: Final = 15_000
"""After the first failure, doubled each time."""
MAX_UPGRADE_BACKOFF_MS: Final = 600_000
"""Where no hole can be punched it will hardly be otherwise soon; but a machine may be carried to another network."""
BEAT_PER_PEER_MS: Final = 8_000
"""In a large swarm beats are rarer, so that a daemon sends one in eight seconds at most: each costs it a millisecond, and so does
each that it gets and answers. They tell of round trips; that a peer is gone is noticed by its link."""
SILENT_BEATS: Final = 4
"""Connected but silent for so many beats: disconnected. The network part notices a frozen peer much sooner."""
MAX_DIALS: Final = 8
"""Dials under way to peers that were not tried in vain before, and as many to others. A handshake costs both sides tens of
milliseconds: fifty at once on a busy machine all miss their time limit, and are all tried again."""
TURN_MS: Final = 500
"""Between two looks whether there is room for another dial."""
PAUSE_MS: Final = 1_000
"""A tick later than this: the process or the machine was asleep."""


class Peer:
    """What is known of one peer's connection."""

    __slots__ = (
        "address",
        "addresses",
        "away_since",
        "beats_sent",
        "connected",
        "dialling",
        "failures",
        "heard_at",
        "heard_wall_ms",
        "latency_ms",
        "left",
        "next_dial_at",
        "reason",
        "relayed",
        "upgrade_at",
        "upgrade_failures",
        "wanted",
    )

    def __init__(self, now: Now) -> None:
        self.addresses: tuple[str, ...] = ()
        self.wanted = False
        """Known and fresh: to be dialled."""
        self.connected = False
        self.relayed = False
        self.upgrade_at: Instant | None = None
        """When to try for a direct connection next; None: it has one, or the try is under way."""
        self.upgrade_failures = 0
        self.address: str | None = None
        self.dialling = False
        self.failures = 0
        self.next_dial_at: Instant = now.instant
        self.away_since: Instant = now.instant
        self.heard_at: Instant = now.instant
        self.heard_wall_ms: WallMs | None = None
        self.latency_ms: float | None = None
        self.left = False
        """It said goodbye."""
        self.reason: str | None = None
        self.beats_sent = 0


class Membership:
    """The connections of this peer."""

    def __init__(self, peer_id: PeerId, config: CoordinationConfig, rng: Random) -> None:
        self._me = peer_id
        self._config = config
        self._rng = rng
        self.relays = Relays(peer_id, config)
        self._peers: dict[PeerId, Peer] = {}
        self.conduct = Conduct()
        self._connected: frozenset[PeerId] = frozenset()
        self._agents: dict[PeerId, tuple[AgentId, ...]] = {}
        self._known: tuple[PeerId, ...] = ()
        self._admitted: tuple[PeerId, ...] = ()
        self._incarnation = 0
        self._beats = 0
        self._next_beat: Instant = 0
        self._stopping = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def started(self, incarnation: int, now: Now) -> list[Output]:
        """Begin to beat."""
        self._incarnation = incarnation
        self._next_beat = now.instant + self._beat_ms()
        return []

    def deadline(self) -> Instant | None:
        """When to be ticked next."""
        first = earliest(self._next_beat if self._incarnation else None, self.conduct.deadline())
        silent_ms = SILENT_BEATS * self._beat_ms()
        for id_, peer in self._peers.items():
            if peer.connected:
                at = peer.heard_at + silent_ms
                if peer.upgrade_at is not None:
                    at = min(at, peer.upgrade_at)
            elif peer.wanted and not peer.dialling and not self.conduct.keeps_out(id_):
                at = peer.next_dial_at
            else:
                continue
            if first is None or at < first:
                first = at
        return first

    def view_deadline(self, now: Instant) -> Instant | None:
        """When suspicions change by the mere passing of time."""
        times: list[Instant] = []
        if len(self._connected) == len(self._peers):
            return None
        for peer in self._peers.values():
            if not peer.connected:
                times += [peer.away_since + REFUSED_MS, peer.away_since + SUSPECT_MS, peer.away_since + self._config.gone_grace_ms]
        return min((t for t in times if t > now), default=None)

    def stop(self) -> None:
        """No more dials."""
        self._stopping = True
        for peer in self._peers.values():
            peer.wanted = False
            peer.upgrade_at = None

    def ticked(self, now: Now, late_ms: int) -> list[Output]:
        """Dial, beat, and hang up on those who are silent."""
        if late_ms > PAUSE_MS:
            self._woken_up(now)
        out = self._admit(now)
        room = self._room_to_dial()
        for id_, peer in sorted(self._peers.items()):
            if peer.connected and now.instant - peer.heard_at >= SILENT_BEATS * self._beat_ms():
                peer.heard_at = now.instant  # told once, and not with every tick until the connection is gone
                out.append(HangUp(peer=id_, reason="silent"))
            elif peer.connected and peer.upgrade_at is not None and now.instant >= peer.upgrade_at:
                peer.upgrade_at = None
                out.append(Upgrade(peer=id_, addresses=direct(peer.addresses)))
            elif peer.wanted and not peer.connected and not peer.dialling and now.instant >= peer.next_dial_at:
                if self.conduct.keeps_out(id_):
                    continue
                if room[peer.failures > 0]:
                    room[peer.failures > 0] -= 1
                    out += self._dial(id_, peer)
                else:
                    peer.next_dial_at = now.instant + self._jittered(TURN_MS)
        if self._incarnation and now.instant >= self._next_beat:
            out += self._beat(now)
        return out

    # --- what discovery and the network tell ------------------------------------------------------------------------------

    def known_changed(self, known: Mapping[PeerId, KnownPeer], now: Now) -> list[Output]:
        """The branch tells other peers or addresses."""
        self._known = tuple(sorted(id_ for id_ in known if id_ != self._me))[: self._config.max_peers]
        for id_ in self._known:
            peer = self._peers.setdefault(id_, Peer(now))
            news = known[id_]
            self._agents[id_] = tuple(sorted(news.agents))
            wanted = news.fresh or news.near or news.remembered
            if news.addresses != peer.addresses or (wanted and not peer.wanted):
                courtesy = COURTESY_MS if self._me > id_ else 0
                if direct(news.addresses) != direct(peer.addresses) and peer.upgrade_at is not None:
                    peer.upgrade_at, peer.upgrade_failures = now.instant, 0
                peer.addresses, peer.left, peer.failures = news.addresses, False, 0
                peer.next_dial_at = now.instant + courtesy
            peer.wanted = wanted and not self._stopping
        for id_, peer in list(self._peers.items()):
            if id_ not in known:
                peer.wanted = False  # if it is connected, it is not for long: it is admitted no more
                if not peer.connected:
                    self._drop(id_)
        self.relays.known_changed(known)
        return self._choose_relays(now) + self.ticked(now, 0)

    def misbehaved(self, peer_id: PeerId, reason: str, now: Now, *, keep_out: bool = True) -> list[Output]:
        """It broke a rule: disconnected, and kept out for a while. Not `keep_out`: a stream of it ended, and this is why."""
        peer = self._peers.get(peer_id)
        if not keep_out:
            if peer is not None and not peer.connected:
                peer.reason = reason
            return []
        dropped = self.conduct.broke(peer_id, reason, now)
        if peer is not None:
            peer.next_dial_at = max(peer.next_dial_at, dropped.until)
        hang_up: list[Output] = [HangUp(peer=peer_id, reason=reason)] if peer is not None and peer.connected else []
        return hang_up + self._admit(now)

    def connected(self, given: PeerConnected, now: Now) -> list[Output]:
        """A connection is there; the first beat measures its round trip."""
        peer = self._peers.setdefault(given.peer, Peer(now))
        peer.connected, peer.address, peer.relayed = True, given.address, given.relayed
        peer.upgrade_at = now.instant + UPGRADE_MS if given.relayed and not self._stopping else None
        peer.upgrade_failures = 0
        self._connected |= {given.peer}
        self.conduct.connected(given.peer, now.instant)
        peer.dialling, peer.failures, peer.left, peer.reason = False, 0, False, None
        peer.heard_at, peer.heard_wall_ms = now.instant, now.wall_ms
        data = {"peerId": given.peer, "agentIds": list(self._agents.get(given.peer, ())), "address": given.address}
        return [self._ping(given.peer, now), Notify(type="peer-connected", agent_id=self._name(given.peer), data=data)]

    def upgraded(self, given: PeerMoved | UpgradeFailed, now: Now) -> list[Output]:
        """A try for a direct connection has come to its end."""
        return self._moved(given, now) if isinstance(given, PeerMoved) else self._upgrade_failed(given, now)

    def _moved(self, given: PeerMoved, now: Now) -> list[Output]:
        """The connection is another one: for everybody else nothing has changed. A beat measures its round trip."""
        peer = self._peers.get(given.peer)
        if peer is None or not peer.connected:
            return []
        peer.address, peer.relayed, peer.latency_ms = given.address, given.relayed, None
        peer.upgrade_at, peer.upgrade_failures = None, 0
        return [self._ping(given.peer, now)]

    def _upgrade_failed(self, given: UpgradeFailed, now: Now) -> list[Output]:
        """It stays relayed; tried again later."""
        peer = self._peers.get(given.peer)
        if peer is None or not (peer.connected and peer.relayed) or self._stopping:
            return []
        wait = min(MAX_UPGRADE_BACKOFF_MS, UPGRADE_BACKOFF_MS * 2 ** min(peer.upgrade_failures, 10))
        peer.upgrade_failures += 1
        peer.upgrade_at = now.instant + self._jittered(wait)
        return []

    def disconnected(self, given: PeerDisconnected, now: Now) -> list[Output]:
        """It is lost; dialled again soon."""
        peer = self._peers.get(given.peer)
        self.conduct.disconnected(given.peer)
        if peer is None or not peer.connected:
            return []
        peer.connected, peer.address, peer.latency_ms, peer.reason = False, None, None, given.reason
        peer.relayed, peer.upgrade_at = False, None
        self._connected -= {given.peer}
        peer.away_since = now.instant
        dropped = self.conduct.dropped(given.peer, now.instant)
        peer.next_dial_at = max(now.instant + self._jittered(FIRST_BACKOFF_MS // 4), dropped.until if dropped else 0)
        peer.dialling = False
        data = {"peerId": given.peer, "agentIds": list(self._agents.get(given.peer, ())), "reason": given.reason}
        told = Notify(type="peer-disconnected", agent_id=self._name(given.peer), data=data)
        if given.peer not in self._known:
            self._drop(given.peer)
        return [told]

    def dial_failed(self, given: DialFailed, now: Now) -> list[Output]:
        """Try again later."""
        peer = self._peers.get(given.peer)
        if peer is None:
            return []
        peer.dialling = False
        peer.reason = peer.reason if peer.connected else given.reason
        peer.failures += 1
        backoff = min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** min(peer.failures - 1, 10))
        peer.next_dial_at = now.instant + self._jittered(backoff)
        return []

    def heard(self, peer_id: PeerId, now: Now) -> None:
        """Something came from it."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.heard_at, peer.heard_wall_ms = now.instant, now.wall_ms

    def presence(self, peer_id: PeerId, message: Presence, now: Now) -> list[Output]:
        """A beat: answer a ping, take the round trip from a pong."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return []
        if message.pong is not None:
            peer.latency_ms = float(max(0, now.instant - message.pong))
            return []
        return [Say(peer=peer_id, message=Presence(incarnation=self._incarnation, count=self._beats, pong=message.ping))]

    def said_goodbye(self, peer_id: PeerId) -> None:
        """It leaves on purpose: no use in dialling it before the branch tells anew."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.left, peer.wanted = True, False

    # --- queries ------------------------------------------------------------------------------------------------------------

    @property
    def connected_peers(self) -> frozenset[PeerId]:
        """Peers with a working stream."""
        return self._connected

    def suspected(self, now: Instant) -> frozenset[PeerId]:
        """Tried, and not reached."""
        if len(self._connected) == len(self._peers):
            return frozenset()
        return frozenset(id_ for id_, peer in self._peers.items() if self._suspects(peer, now))

    def gone(self, now: Instant) -> frozenset[PeerId]:
        """Not reached for longer than the grace, or left on purpose."""
        if len(self._connected) == len(self._peers):
            return frozenset()
        grace = self._config.gone_grace_ms
        return frozenset(
            id_ for id_, peer in self._peers.items() if self._suspects(peer, now) and (peer.left or now - peer.away_since >= grace)
        )

    def peer(self, peer_id: PeerId) -> Peer | None:
        """What is known of it."""
        return self._peers.get(peer_id)

    def connection(self, peer_id: PeerId) -> ConnectionKind:
        """In a word."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return "disconnected"
        if peer.connected:
            return "relayed" if peer.relayed else "direct"
        return "connecting" if peer.dialling else "disconnected"

    def reason(self, peer_id: PeerId, now: Instant) -> str | None:
        """Why it was dropped for breaking a rule, kept when it is back; and why it is not connected."""
        peer, dropped = self._peers.get(peer_id), self.conduct.dropped(peer_id, now)
        found = []
        if dropped is not None:
            times = f", {dropped.times} times" if dropped.times > 1 else ""
            found.append(f"dropped at {iso_from_ms(dropped.at_ms)}{times}: {dropped.reason}")
        if peer is not None and peer.reason and not peer.connected and (dropped is None or peer.reason != dropped.reason):
            found.append(peer.reason)
        return "; ".join(found) or None

    def longing(self) -> int:
        """How often the most wanted unconnected peer has been tried in vain: its address may have changed."""
        if len(self._connected) == len(self._peers):
            return 0
        return max((peer.failures for peer in self._peers.values() if peer.wanted and not peer.connected), default=0)

    def _choose_relays(self, now: Now) -> list[Output]:
        return [] if self._stopping else self.relays.choose(self.gone(now.instant) | self.conduct.kept_out(now.instant))

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _drop(self, id_: PeerId) -> None:
        """It is none of ours any more."""
        del self._peers[id_]
        self._agents.pop(id_, None)

    def _suspects(self, peer: Peer, now: Instant) -> bool:
        if peer.connected:
            return False
        return peer.left or now - peer.away_since >= (REFUSED_MS if peer.failures else SUSPECT_MS)

    def _woken_up(self, now: Now) -> None:
        for peer in self._peers.values():
            peer.heard_at = now.instant
            if peer.upgrade_at is not None:
                peer.upgrade_at, peer.upgrade_failures = now.instant, 0  # it may be on another network now
            if not peer.connected:
                peer.failures = 0
                peer.away_since = now.instant
                peer.next_dial_at = now.instant

    def _admit(self, now: Now) -> list[Output]:
        kept_out = self.conduct.kept_out(now.instant)
        admitted = tuple(id_ for id_ in self._known if id_ not in kept_out)
        if admitted == self._admitted:
            return []
        self._admitted = admitted
        return [Admit(peers=admitted)]

    def _room_to_dial(self) -> list[int]:
        """How many more dials may be made: to peers that were not tried in vain, and to others."""
        room = [MAX_DIALS, MAX_DIALS]
        if len(self._connected) < len(self._peers):
            for peer in self._peers.values():
                if peer.dialling and not peer.connected:
                    room[peer.failures > 0] -= 1
        return [max(0, left) for left in room]

    def _dial(self, id_: PeerId, peer: Peer) -> list[Output]:
        peer.dialling = True
        ways = self.relays.ways(id_, peer.addresses)
        if not ways:
            return [Dial(peer=id_, addresses=direct(peer.addresses))]
        return [Dial(peer=id_, addresses=direct(peer.addresses), relayed=ways, patience_ms=RELAY_PATIENCE_MS)]

    def _beat_ms(self) -> int:
        return max(self._config.heartbeat_interval_ms, BEAT_PER_PEER_MS * len(self._connected))

    def _beat(self, now: Now) -> list[Output]:
        self._beats += 1
        self._next_beat = now.instant + self._jittered(self._beat_ms())
        out: list[Output] = [self._ping(id_, now) for id_ in sorted(self.connected_peers)]
        return [*out, *self._choose_relays(now), Notify(type="heartbeat-sent", data={"count": self._beats})]

    def _ping(self, peer_id: PeerId, now: Now) -> Say:
        return Say(peer=peer_id, message=Presence(incarnation=self._incarnation, count=self._beats, ping=now.instant))

    def _jittered(self, interval_ms: int) -> int:
        return interval_ms * self._rng.randrange(80, 121) // 100

    def _name(self, peer_id: PeerId) -> AgentId:
        agents = self._agents.get(peer_id, ())
        return agents[0] if agents else peer_id
