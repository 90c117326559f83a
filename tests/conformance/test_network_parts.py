"""What the real network is put together from."""

from __future__ import annotations

import pytest
import trio

from sudocode_coordination.adapters.delivery import Outbox
from sudocode_coordination.adapters.identity import generate_identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.adapters.libp2p_addresses import MAX_DIALLED_ADDRESSES, announced, dial_order, parse
from sudocode_coordination.adapters.supervisor import explain, supervise
from sudocode_coordination.core.io import Input, PeerDisconnected
from sudocode_coordination.errors import NetworkError
from sudocode_coordination.sim.identity import SimKeyring

PEER = SimKeyring("ann").peer_id
OTHER = SimKeyring("bob").peer_id


def test_addresses_are_dialled_in_a_sensible_order() -> None:
    given = (
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/10.0.0.7/tcp/4001/ws",
        "/ip4/10.0.0.7/tcp/4001",
        f"/ip4/10.0.0.8/tcp/4001/p2p/{PEER}",
        f"/ip4/10.0.0.9/tcp/4001/p2p/{OTHER}",
        "/ip4/10.0.0.7/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/dns4/example.org/tcp/4001",
        "/ip4/10.0.0.7/udp/4001/quic-v1",
        "/ip4/10.0.0.7/tcp/0",
        "nonsense",
    )
    assert [str(address) for address in dial_order(given, PEER)] == [
        "/ip4/10.0.0.7/tcp/4001",
        "/ip4/10.0.0.8/tcp/4001",
        "/dns4/example.org/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip4/10.0.0.7/tcp/4001/ws",
    ]
    assert len(dial_order((f"/ip4/10.0.0.7/tcp/{port}" for port in range(1, 500)), PEER)) == MAX_DIALLED_ADDRESSES


def test_both_families_are_announced() -> None:
    wildcards = [address for address in map(parse, ("/ip4/0.0.0.0/tcp/7", "/ip6/::/tcp/8/ws")) if address is not None]
    found = announced(wildcards)
    assert "/ip4/127.0.0.1/tcp/7" in found
    assert "/ip6/::1/tcp/8/ws" in found
    assert not [address for address in found if "/0.0.0.0/" in address or "/::/" in address]
    fixed = parse("/ip4/10.0.0.7/tcp/9")
    assert announced([] if fixed is None else [fixed]) == ("/ip4/10.0.0.7/tcp/9",)


def test_what_was_given_first_is_delivered_first() -> None:
    async def main() -> None:
        seen: list[Input] = []
        outbox = Outbox(seen.append)
        items = [PeerDisconnected(peer=PEER, reason=str(number)) for number in range(4)]
        outbox.later(items[0])
        outbox.later(items[1])
        assert seen == []
        outbox.now(items[2])
        assert seen == items[:3]
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.run)
                outbox.later(items[3])
                while len(seen) < 4:
                    await trio.sleep(0)
                nursery.cancel_scope.cancel()
        assert seen == items

    trio.run(main)


def test_a_life_that_ends_badly_is_lived_again() -> None:
    lives: list[str] = []

    async def life(done: trio.Event) -> None:
        lives.append("begun")
        if len(lives) < 5:
            raise ExceptionGroup("several", [ExceptionGroup("deep", [KeyError("x")])])
        await done.wait()
        lives.append("in peace")

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await supervise(life, ended=lambda: lives.append("ended"), fatal=lambda _: False)

                nursery.start_soon(run)
                while len(lives) < 5:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert lives == ["begun", "ended", "begun", "ended", "begun", "in peace", "ended"]


def test_what_is_fatal_is_raised_as_it_is() -> None:
    async def life(_: trio.Event) -> None:
        raise ExceptionGroup("several", [KeyError("x")])

    with pytest.raises(KeyError):
        trio.run(lambda: supervise(life, ended=lambda: None, fatal=lambda error: isinstance(error, KeyError)))


def test_the_innermost_cause_is_told() -> None:
    outer = ValueError("outer")
    outer.__cause__ = ExceptionGroup("group", [OSError("refused")])
    assert explain(outer) == "refused"
    assert explain(trio.TooSlowError()) == "no answer in time"
    assert explain(KeyError()) == "KeyError"


@pytest.mark.parametrize("address", ["", "garbage", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    with pytest.raises(NetworkError) as caught:
        Libp2pNetwork(generate_identity(), (address,), lambda _: None)
    assert caught.value.hint
