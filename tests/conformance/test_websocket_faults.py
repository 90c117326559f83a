"""A fault of py-libp2p 0.8.1's WebSockets that the adapter closes."""

from __future__ import annotations

import pytest
import trio
import trio_websocket
from libp2p.transport.websocket.connection import P2PWebSocketConnection

from sudocode_coordination.adapters import libp2p_faults

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize("closed", [False, True])
def test_closing_a_websocket_does_not_wait_for_a_peer_that_says_nothing(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    libp2p_faults.quiet_modules()
    if not closed:
        monkeypatch.setattr(P2PWebSocketConnection, "close", libp2p_faults._close_websocket)
    ended = trio.Event()

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = P2PWebSocketConnection(await request.accept())
        with trio.CancelScope(shield=True) as shield:  # as the swarm does it
            if not closed:
                shield.deadline = trio.current_time() + 2 * libp2p_faults._GOODBYE_SECONDS
            await connection.close()
        assert shield.cancelled_caught != closed, "the fault is gone, or is not closed"
        ended.set()

    async def story() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as silent:
                    await silent.send_all(UPGRADE)
                    await ended.wait()
                nursery.cancel_scope.cancel()

    trio.run(story)
