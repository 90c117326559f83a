"""Who is there: dials known peers until they are connected, keeps beats going, tells who is suspected and who is gone.

    known --dial--> connected --lost--> known, with backoff
                    relayed: connected through a relay, because no direct address answered; upgraded again and again
    suspected: not connected for `SUSPECT_MS`, or for `REFUSED_MS` if a dial has failed
    gone:      suspected for longer than the configured grace

Laws: every fresh known peer that is not connected is dialled again and again, never faster than its backoff; a peer that was
not tried yet is never suspected; after a pause of this process nobody is suspected before it was tried anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from sudocode_coordination.config import CoordinationConfig
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
from sudocode_coordination.model import AgentId, ConnectionKind, Instant, Now, PeerId, WallMs

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
BEAT_PER_PEER_MS: Final = 1_000
"""In a large swarm beats are rarer, so that one daemon sends about one a second at most."""
SILENT_BEATS: Final = 4
"""Connected but silent for so many beats: disconnected. The network part notices a frozen peer much sooner."""
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
        self._connected: frozenset[PeerId] = frozenset()
        self._agents: dict[PeerId, tuple[AgentId, ...]] = {}
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
        first = self._next_beat if self._incarnation else None
        silent_ms = SILENT_BEATS * self._beat_ms()
        for peer in self._peers.values():
            if peer.connected:
                at = peer.heard_at + silent_ms
                if peer.upgrade_at is not None:
                    at = min(at, peer.upgrade_at)
            elif peer.wanted and not peer.dialling:
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
        out: list[Output] = []
        for id_, peer in sorted(self._peers.items()):
            if peer.connected and now.instant - peer.heard_at >= SILENT_BEATS * self._beat_ms():
                peer.heard_at = now.instant  # told once, and not with every tick until the connection is gone
                out.append(HangUp(peer=id_, reason="silent"))
            elif peer.connected and peer.upgrade_at is not None and now.instant >= peer.upgrade_at:
                peer.upgrade_at = None
                out.append(Upgrade(peer=id_, addresses=direct(peer.addresses)))
            elif peer.wanted and not peer.connected and not peer.dialling and now.instant >= peer.next_dial_at:
                out += self._dial(id_, peer)
        if self._incarnation and now.instant >= self._next_beat:
            out += self._beat(now)
        return out

    # --- what discovery and the network tell ------------------------------------------------------------------------------

    def known_changed(self, known: Mapping[PeerId, KnownPeer], now: Now) -> list[Output]:
        """The branch tells other peers or addresses."""
        out: list[Output] = []
        admitted = tuple(sorted(id_ for id_ in known if id_ != self._me))
        for id_ in admitted[: self._config.max_peers]:
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
        for id_ in [id_ for id_, peer in self._peers.items() if id_ not in known and not peer.connected]:
            del self._peers[id_]
            self._agents.pop(id_, None)
        if admitted != self._admitted:
            self._admitted = admitted
            out.append(Admit(peers=admitted[: self._config.max_peers]))
        self.relays.known_changed(known)
        return out + self._choose_relays(now) + self.ticked(now, 0)

    def connected(self, given: PeerConnected, now: Now) -> list[Output]:
        """A connection is there; the first beat measures its round trip."""
        peer = self._peers.setdefault(given.peer, Peer(now))
        peer.connected, peer.address, peer.relayed = True, given.address, given.relayed
        peer.upgrade_at = now.instant + UPGRADE_MS if given.relayed and not self._stopping else None
        peer.upgrade_failures = 0
        self._connected |= {given.peer}
        peer.dialling, peer.failures, peer.left, peer.reason = False, 0, False, None
        peer.heard_at, peer.heard_wall_ms = now.instant, now.wall_ms
        data = {"peerId": given.peer, "agentIds": list(self._agents.get(given.peer, ())), "address": given.address}
        return [self._ping(given.peer, now), Notify(type="peer-connected", agent_id=self._name(given.peer), data=data)]

    def moved(self, given: PeerMoved, now: Now) -> list[Output]:
        """The connection is another one: for everybody else nothing has changed. A beat measures its round trip."""
        peer = self._peers.get(given.peer)
        if peer is None or not peer.connected:
            return []
        peer.address, peer.relayed, peer.latency_ms = given.address, given.relayed, None
        peer.upgrade_at, peer.upgrade_failures = None, 0
        return [self._ping(given.peer, now)]

    def upgrade_failed(self, given: UpgradeFailed, now: Now) -> list[Output]:
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
        if peer is None or not peer.connected:
            return []
        peer.connected, peer.address, peer.latency_ms, peer.reason = False, None, None, given.reason
        peer.relayed, peer.upgrade_at = False, None
        self._connected -= {given.peer}
        peer.away_since = now.instant
        peer.next_dial_at = now.instant + self._jittered(FIRST_BACKOFF_MS // 4)
        peer.dialling = False
        data = {"peerId": given.peer, "agentIds": list(self._agents.get(given.peer, ())), "reason": given.reason}
        return [Notify(type="peer-disconnected", agent_id=self._name(given.peer), data=data)]

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

    def longing(self) -> int:
        """How often the most wanted unconnected peer has been tried in vain: its address may have changed."""
        if len(self._connected) == len(self._peers):
            return 0
        return max((peer.failures for peer in self._peers.values() if peer.wanted and not peer.connected), default=0)

    def _choose_relays(self, now: Now) -> list[Output]:
        return [] if self._stopping else self.relays.choose(self.gone(now.instant))

    # --- inside -------------------------------------------------------------------------------------------------------------

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
