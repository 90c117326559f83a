"""A stranger on the network opens connections and says nothing. Each may take ten seconds to show who it is; those from one
address can't keep out the others."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import knock, plain_host, run_real
from tests.conformance.network_bench import RealBench

from sudocode_coordination.adapters import libp2p_faults
from sudocode_coordination.core.io import PeerConnected, PeerRefused

needs_many_loopbacks = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


@needs_many_loopbacks
@pytest.mark.parametrize("per_host", [4, 1_000], ids=["limited", "not limited"])
def test_silent_connections_of_one_address_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch, per_host: int) -> None:
    monkeypatch.setattr(libp2p_faults, "MAX_PENDING_HANDSHAKES", 16)
    monkeypatch.setattr(libp2p_faults, "MAX_PENDING_PER_HOST", per_host)

    async def test(bench: RealBench) -> None:
        ann, ben = await bench.pair()
        (port,) = {int(Multiaddr(address).value_for_protocol("tcp")) for address in ann.addresses}
        silent = []
        try:
            for _ in range(40):
                one = trio.socket.socket()
                await one.bind(("127.0.0.2", 0))
                await one.connect(("127.0.0.1", port))
                silent.append(one)
            ended = 0
            for one in silent:  # those that are too many are closed at once
                with trio.move_on_after(0.05):
                    while await one.recv(1_000):
                        pass
                    ended += 1
            assert ended >= (36 if per_host == 4 else 24)
            if per_host == 4:
                await bench.connect(ben, ann)
            else:
                ben.dial(ann)
                with trio.move_on_after(1):
                    await bench.until(lambda: ben.connected)
                assert not ben.connected  # what the limit is for
        finally:
            for one in silent:
                one.close()

    run_real(test)


def test_a_stranger_is_refused_before_any_stream_and_is_no_news_more_than_some_times_a_second() -> None:
    async def test(bench: RealBench) -> None:
        ann, ben = await bench.pair()
        await bench.connect(ben, ann)
        async with plain_host("stranger") as host:
            for _ in range(5):
                await knock(host, ann, refused=True)
            stranger = host.get_id().to_base58()
            assert not [up for up in ann.of(PeerConnected) if up.peer == stranger]
            assert {told.peer for told in ann.of(PeerRefused)} == {stranger}
        assert ben.connected

    run_real(test)


def test_bytes_that_are_no_handshake_end_their_connection() -> None:
    async def test(bench: RealBench) -> None:
        ann, ben = await bench.pair()
        await bench.connect(ben, ann)
        (port,) = {int(Multiaddr(address).value_for_protocol("tcp")) for address in ann.addresses}
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5_000, b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff" * 3_000, b""):
            one = trio.socket.socket()
            await one.connect(("127.0.0.1", port))
            await one.send(data or b"\0")
            one.shutdown(socket.SHUT_WR)
            with trio.fail_after(15):
                try:
                    while await one.recv(1_000):
                        pass
                except OSError:
                    pass
            one.close()
        assert ben.connected
        await bench.settle()

    run_real(test)
