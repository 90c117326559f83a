"""Below the streams there is Yamux, and what is said there is seen by nobody above: pings that are to be answered, window updates,
data of streams that do not exist. Each costs a little. Mallory, a peer, sends nothing else."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from tests.conformance.network_attacker import run_real, swarm_of
from tests.conformance.network_bench import RealBench

from sudocode_coordination.adapters import libp2p_yamux
from sudocode_coordination.core.io import PeerMisbehaved

PING = struct.pack("!BBHII", 0, 2, 1, 0, 7)
WINDOW_UPDATE = struct.pack("!BBHII", 0, 1, 0, 1_000_001, 1)
DATA_FOR_NOBODY = struct.pack("!BBHII", 0, 0, 0, 1_000_001, 1) + b"x"


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        pytest.param(PING, ", pings now", id="pings"),
        pytest.param(WINDOW_UPDATE, ", window updates now", id="window updates"),
        pytest.param(DATA_FOR_NOBODY, "", id="data"),
    ],
)
def test_who_wears_out_the_muxer_is_dropped(frame: bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: RealBench) -> None:
        ann, ben = await bench.pair()
        mallory = await bench.node("mallory")
        ann.admit(ben, mallory)
        mallory.admit(ann)
        await bench.connect(ben, ann)
        await bench.connect(mallory, ann)
        connection: Any
        [connection] = swarm_of(bench, mallory).get_connections(ID.from_base58(ann.peer_id))
        with contextlib.suppress(Exception), trio.move_on_after(30):
            while not ann.of(PeerMisbehaved):
                await connection.muxed_conn._write_frame(frame)
        await bench.until(lambda: mallory.peer_id not in ann.connected and not mallory.connected)
        assert {(seen.peer, seen.reason) for seen in ann.of(PeerMisbehaved)} == {
            (mallory.peer_id, f"sends too many frames: over 1 a second on a connection{told}")
        }
        await bench.settle()
        assert ben.connected

    monkeypatch.setattr(libp2p_yamux, "BURST_FRAMES", 500)
    monkeypatch.setattr(libp2p_yamux, "FRAMES_PER_SECOND", 1)
    run_real(story)
