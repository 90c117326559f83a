"""Which link each peer has: hellos are said and answered here, links come up, move to another connection, and end.

Who dials opens the stream on the connection it dialled. When both dial at once, the stream that the smaller id opened stays:

| a hello comes in while                        | then                                                         |
|---|---|
| nothing is there                              | accept                                                       |
| own hello is under way, own id is larger      | accept; the own one will be refused                          |
| own hello is under way, own id is smaller     | wait for its answer, then as below                           |
| a stream is up, the hello is older than it    | refuse: a leftover of dialling at once                       |
| a stream is up, the hello is newer            | the other side has lost it: `PeerDisconnected`, then accept  |
| a relayed stream is up, the hello is a `MOVE` | accept, and go on there (`links.py`)                         |
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.delivery import Outbox
from sudocode_coordination.adapters.libp2p_connections import Running
from sudocode_coordination.adapters.libp2p_streams import drop, open_stream
from sudocode_coordination.adapters.libp2p_swift import SwiftStream
from sudocode_coordination.adapters.libp2p_yamux import batch_window_updates
from sudocode_coordination.adapters.links import (
    ACCEPT,
    DUPLICATE,
    MOVE,
    OPEN,
    SYNC_PROTOCOL,
    Direction,
    Hello,
    Link,
    LinkLimits,
    encode_hello,
    read_hello,
)
from sudocode_coordination.core.io import FrameReceived, PeerConnected, PeerDisconnected, PeerMisbehaved, PeerMoved
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

SYNC: Final = TProtocol(SYNC_PROTOCOL)
HELLO_SECONDS: Final = 5.0
LINGER_SECONDS: Final = 5.0
"""From the end of a move to the end of the relayed connection: the mark of its end may still be on its way to the other side."""


class Links:
    """Of one network part, over all its hosts.

    Args:
        max_links: as many peers at once.
        may_connect: who is admitted.
        taken_up: told of each link that comes up, before the node is: a dial has its end.
    """

    def __init__(
        self,
        peer_id: PeerId,
        outbox: Outbox,
        limits: LinkLimits,
        max_links: int,
        *,
        may_connect: Callable[[PeerId], bool],
        taken_up: Callable[[PeerId, Direction], None],
    ) -> None:
        self.peer_id = peer_id
        self.of: dict[PeerId, Link] = {}
        self.running: Running | None = None
        self._outbox = outbox
        self._limits = limits
        self._max_links = max_links
        self._may_connect = may_connect
        self._taken_up = taken_up
        self._openings: dict[PeerId, trio.Event] = {}
        self._carriers: dict[Link, Any] = {}
        """The connection under each link, or the one that it moves to."""
        self._instance = secrets.token_bytes(8)
        self._count = 0

    # --- hellos -----------------------------------------------------------------------------------------------------------

    async def open(self, running: Running, peer: PeerId, connection: Any, address: str, kind: int = OPEN) -> None:
        """Open the sync stream on a connection that was dialled, or (`MOVE`) take a relayed link there.

        Raises:
            ProtocolError: the other side refused, or something else was quicker.
        """
        stream = await open_stream(connection, SYNC)
        try:
            opening = self._openings[peer] = trio.Event()
            try:
                await stream.write(encode_hello(self._next_hello(kind)))
                answer = await read_hello(stream)
                if answer.kind != ACCEPT:
                    raise ProtocolError("it has a newer connection already" if answer.kind == DUPLICATE else "it refused")
                link = self.of.get(peer)
                if kind == MOVE:
                    if link is None or not self._can_move(link, answer):
                        raise ProtocolError("there is nothing to move any more")
                    self._move(running, link, stream, connection, address, "out", answer)
                    return
                if link is not None and _is_older(answer, link.remote):
                    raise ProtocolError("another connection was quicker")
                link = self._take_up(running, peer, stream, connection, address, "out", answer)
            finally:
                opening.set()
                if self._openings.get(peer) is opening:
                    del self._openings[peer]
        except BaseException:
            await drop(stream)
            raise
        running.nursery.start_soon(self._run, running, link)

    async def on_stream(self, running: Running, stream: INetStream) -> None:
        """The other side opens one; whoever calls resets the stream if this raises."""
        peer = stream.muxed_conn.peer_id.to_base58()
        connection: Any = stream.swarm_conn  # type: ignore[attr-defined]
        hello = await self._hello_of(peer, stream)
        with trio.fail_after(HELLO_SECONDS):
            while peer in self._openings and self.peer_id < peer:
                await self._openings[peer].wait()
        link = self.of.get(peer)
        refused = not self._may_connect(peer) or (link is None and len(self.of) >= self._max_links)
        if hello.kind == MOVE:
            refused = refused or link is None or not self._can_move(link, hello) or faults.is_relayed(connection)
        elif link is not None:
            refused = refused or _is_older(hello, link.remote)
        if refused:
            with trio.fail_after(HELLO_SECONDS):
                await stream.write(encode_hello(self._next_hello(DUPLICATE)))
                await stream.close()
            return
        accept = encode_hello(self._next_hello(ACCEPT))
        address = faults.connection_address(connection)
        if hello.kind == OPEN:
            link = self._take_up(running, peer, stream, connection, address, "in", hello, accept)
            await self._run(running, link)
            return
        assert link is not None
        running.connections.use(connection)
        try:
            with trio.fail_after(HELLO_SECONDS):
                await stream.write(accept)
            if self.of.get(peer) is not link or not self._can_move(link, hello):
                raise ProtocolError("there is nothing to move any more")
        except BaseException:
            running.connections.done_with(connection)
            raise
        self._move(running, link, stream, connection, address, "in", hello)
        await link.finished.wait()

    async def _hello_of(self, peer: PeerId, stream: INetStream) -> Hello:
        """The hello of who opened the stream; why there is none is told, and raised."""
        try:
            with trio.fail_after(HELLO_SECONDS):
                hello = await read_hello(stream)
            if hello.kind not in (OPEN, MOVE):
                raise ProtocolError(f"a hello of kind {hello.kind} where one that opens is due")
        except (trio.TooSlowError, ProtocolError) as error:
            slow = isinstance(error, trio.TooSlowError)  # it may be a fault of the machine, or of the way
            reason = f"opened a stream and said no hello within {HELLO_SECONDS:.0f} s" if slow else str(error)
            self._outbox.now(PeerMisbehaved(peer=peer, reason=reason, keep_out=not slow))
            raise
        return hello

    def carrier(self, peer: PeerId) -> Any | None:
        """The connection under a peer's link, if it has one."""
        link = self.of.get(peer)
        return None if link is None else self._carriers.get(link)

    def _next_hello(self, kind: int) -> Hello:
        self._count += 1
        return Hello(kind, self._instance, self._count)

    @staticmethod
    def _can_move(link: Link, hello: Hello) -> bool:
        return link.relayed and not link.moving and hello.instance == link.remote.instance

    # --- links ------------------------------------------------------------------------------------------------------------

    def _take_up(
        self,
        running: Running,
        peer: PeerId,
        stream: Any,
        connection: Any,
        address: str,
        direction: Direction,
        remote: Hello,
        greeting: bytes = b"",
    ) -> Link:
        old = self.of.get(peer)
        if old is not None:
            self.forget(old, "replaced by a newer connection")
            old.close_nowait("replaced by a newer connection")
        batch_window_updates(stream)
        link = Link(
            peer,
            SwiftStream(stream),
            address=address,
            direction=direction,
            remote=remote,
            on_frame=self._on_frame,
            limits=self._limits,
            greeting=greeting,
            relayed=faults.is_relayed(connection),
            on_moved=lambda link: self._on_moved(running, link),
        )
        running.connections.use(connection)
        self.of[peer] = link
        self._carriers[link] = connection
        self._taken_up(peer, direction)
        self._outbox.now(PeerConnected(peer=peer, address=address, direction=direction, relayed=link.relayed))
        running.pubsub.manager.run_task(running.pubsub._handle_new_peer_with_retry, ID.from_base58(peer))
        return link

    def _move(
        self, running: Running, link: Link, stream: Any, connection: Any, address: str, direction: Direction, remote: Hello
    ) -> None:
        batch_window_updates(stream)
        running.connections.use(connection)
        before, self._carriers[link] = self._carriers[link], connection
        link.left_behind = before
        link.move(SwiftStream(stream), address=address, direction=direction, remote=remote)

    def _on_moved(self, running: Running, link: Link) -> None:
        """Nothing is left on the relayed connection, as far as this side can see."""
        if self.of.get(link.peer) is link:
            self._outbox.now(PeerMoved(peer=link.peer, address=link.address, relayed=False))
        before, link.left_behind = link.left_behind, None
        if before is not None and self.running is running:
            running.nursery.start_soon(self._leave, running, link, before)

    async def _leave(self, running: Running, link: Link, before: Any) -> None:
        await trio.sleep(LINGER_SECONDS)
        await running.connections.close(before)
        if self.of.get(link.peer) is link and self.running is running:
            # Gossip had its streams on the old connection: they are made anew, as after any loss.
            running.pubsub._handle_dead_peer(ID.from_base58(link.peer))
            running.pubsub.manager.run_task(running.pubsub._handle_new_peer_with_retry, ID.from_base58(link.peer))

    async def _run(self, running: Running, link: Link) -> None:
        try:
            await link.run()
        finally:
            self.forget(link, link.reason)
            if link.fault:
                self._outbox.now(PeerMisbehaved(peer=link.peer, reason=link.reason))
            connection = self._carriers.pop(link, None)
            if self.running is running:
                for carrier in (connection, link.left_behind):
                    if carrier is not None:
                        running.connections.done_with(carrier)

    def forget(self, link: Link, reason: str, *, later: bool = False) -> None:
        """The link is no longer the peer's: nothing of it is delivered any more but this."""
        if self.of.get(link.peer) is not link:
            return
        del self.of[link.peer]
        if self.running is not None:
            self.running.pubsub._handle_dead_peer(ID.from_base58(link.peer))
        item = PeerDisconnected(peer=link.peer, reason=reason)
        if later:
            self._outbox.later(item)
        else:
            self._outbox.now(item)

    def flooded(self, peer: PeerId, reason: str) -> None:
        """It does too much of something below the links."""
        link = self.of.get(peer)
        if link is not None:
            self.forget(link, reason)
            link.close_nowait(reason)
        elif self.running is not None:
            self.running.connections.close_those_of(lambda other: other == peer)  # it may be a relay and no peer
        self._outbox.now(PeerMisbehaved(peer=peer, reason=reason))

    def _on_frame(self, link: Link, frame: bytes) -> None:
        if self.of.get(link.peer) is link:
            self._outbox.now(FrameReceived(peer=link.peer, frame=frame))


def _is_older(hello: Hello, current: Hello) -> bool:
    """Whether it was said before what the current link was opened with, by the same run of the same peer."""
    return hello.instance == current.instance and hello.number < current.number
