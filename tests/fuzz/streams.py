"""What is parsed below and beside the links: frames of Yamux by the short way, addresses to punch a hole towards."""

from __future__ import annotations

from typing import Final

import trio
from google.protobuf.message import DecodeError
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from tests.conformance.test_network_swift import frame, muxed, sealed
from tests.core.feeds import identity

from sudocode_coordination.adapters.libp2p_addresses import MAX_DIALLED_ADDRESSES, parse
from sudocode_coordination.adapters.libp2p_upgrades import _usable

PEER: Final = identity("mallory").peer_id
SECONDS: Final = 30


def muxer(data: bytes) -> None:
    """The first byte says how large the Noise messages are that the rest comes in. The connection ends, and nothing else."""
    size = 1 + 3 * (data[0] if data else 0)
    messages = [data[start : start + size] for start in range(1, len(data), size)]

    async def main() -> None:
        connection, _, stream = muxed([sealed(message) for message in messages])
        stream.recv_window = 4  # that is soon over
        with trio.fail_after(SECONDS):
            await connection.handle_incoming()
        assert connection.event_closed.is_set()
        assert stream.recv_window >= 0

    trio.run(main)


def hole_punch(data: bytes) -> None:
    """What is dialled is TCP, without WebSocket, and little of it."""
    message = HolePunch()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return
    found = _usable(message, PEER)
    assert len(found) <= MAX_DIALLED_ADDRESSES
    for address in found:
        again = parse(str(address))
        assert again is not None
        assert not str(again).endswith("/ws")


SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "muxer": (
        b"\x08" + frame(1, b"abc") + frame(1, b"de") + frame(9, b"nobody's"),
        b"\xff" + frame(1, b"x" * 40, flags=4) + frame(2, b"", flags=1) + frame(2, b"y") + frame(2, b"", flags=8),
        b"\x03" + frame(0, b"", kind=2, flags=1) + frame(1, b"", kind=1) + frame(0, b"", kind=3),
    ),
    "hole_punch": (
        HolePunch(type=HolePunch.CONNECT, ObsAddrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x01"] * 2).SerializeToString(),
        HolePunch(
            type=HolePunch.CONNECT, ObsAddrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x01\xdd\x03", b"\x29" + b"\0" * 16]
        ).SerializeToString(),
        HolePunch(type=HolePunch.SYNC).SerializeToString(),
    ),
}
