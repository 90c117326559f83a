"""Real daemons behind NATs and firewalls, in network namespaces."""

from __future__ import annotations

from typing import Any

import pytest
from tests.e2e.clones import Clone, repository, wait_for
from tests.nat.nets import Internet, internet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RELAY = "203.0.113.10"
PATIENCE_S = 40.0
"""For a dial that is not answered, the relay after it, and a few rounds of hole punching."""


def start(net: Internet, clone: Clone, *listen: str, **settings: str) -> None:
    """Its daemon, on the machine of its name."""
    addresses = [part for address in listen for part in ("--listen", address)]
    keys = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    clone.json("start", "--agent-id", clone.name, *addresses, *keys, on=net.command(clone.name))


def peer_of(clone: Clone, other: Clone) -> dict[str, Any]:
    """What `coord peers` of one says of the other."""
    found = [peer for peer in clone.json("peers")["peers"] if peer["agentId"] == other.name]
    return found[0] if found else {"connection": "unknown", "address": ""}


def become(kind: str, one: Clone, two: Clone) -> None:
    """Both say that they are connected in that way."""
    wait_for(
        f"{one.name} and {two.name} are {kind}",
        lambda: all(peer_of(a, b)["connection"] == kind for a, b in ((one, two), (two, one))),
        PATIENCE_S,
    )


def two_nats(net: Internet, *, symmetric: bool) -> None:
    net.machine("relay", f"{RELAY}/24")
    net.nat("home", "203.0.113.1/24", "10.1.0.1/24", symmetric=symmetric)
    net.nat("work", "203.0.113.2/24", "10.2.0.1/24", symmetric=symmetric)
    net.behind("home", "ann", "10.1.0.2/24")
    net.behind("work", "bob", "10.2.0.2/24")


def test_two_behind_nats_meet_at_a_relay_and_punch_a_hole() -> None:
    with internet() as net, repository("relay", "ann", "bob") as (relay, ann, bob):
        two_nats(net, symmetric=False)
        start(net, relay, f"/ip4/{RELAY}/tcp/4001", relay_service="true")
        start(net, ann)
        start(net, bob)
        become("direct", ann, bob)
        address = peer_of(ann, bob)["address"]
        assert address.startswith("/ip4/203.0.113."), "the outer address of the NAT"
        assert "/p2p-circuit" not in address
        held = ann.json("lease", "src/auth.py")
        assert held["granted"]
        relay.coord("stop")
        wait_for("the relay is gone", lambda: peer_of(ann, relay)["connection"] not in ("direct", "relayed"), PATIENCE_S)
        bob.coord("lease", "src/auth.py", expect=3)
        assert peer_of(ann, bob)["connection"] == "direct"
        for clone, other in ((ann, bob), (bob, ann)):
            lost = [event for event in clone.events("peer-disconnected") if other.name in event["data"]["agentIds"]]
            assert not lost, "the relayed connection was let go without losing the peer"


def test_where_no_hole_can_be_punched_the_relay_carries_it() -> None:
    with internet() as net, repository("relay", "ann", "bob") as (relay, ann, bob):
        two_nats(net, symmetric=True)
        start(net, relay, f"/ip4/{RELAY}/tcp/4001", relay_service="true")
        start(net, ann)
        start(net, bob)
        become("relayed", ann, bob)
        assert "/p2p-circuit" in peer_of(ann, bob)["address"]
        assert ann.json("lease", "src/auth.py")["granted"]
        bob.coord("lease", "src/auth.py", expect=3)
        ann.coord("release", "src/auth.py")
        bob.coord("lease", "src/auth.py")


# --- firewalls ----------------------------------------------------------------------------------------------------------------

ONE_PORT = """
table inet filter {
  chain input { type filter hook input priority 0; policy drop; iifname "lo" accept; ct state established,related accept; %s }
  chain output { type filter hook output priority 0; policy drop; oifname "lo" accept; ct state established,related accept; %s }
}
"""
HTTP_ONLY = """
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct mark 80 accept
    ip length <= 60 accept
    iifname "lan" @ih,0,32 0x47455420 ct mark set 80 accept
    reject with tcp reset
  }
}
table ip nat {
  chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}
"""
"""Segments without content pass; the first one with content must begin with `GET `, or the connection is reset."""


def test_a_firewall_that_lets_only_the_websocket_port_through() -> None:
    with internet() as net, repository("ann", "bob") as (ann, bob):
        net.machine("ann", "203.0.113.10/24")
        net.machine("bob", "203.0.113.20/24")
        net.rules("ann", ONE_PORT % ("", "tcp dport 8080 accept;"))
        net.rules("bob", ONE_PORT % ("tcp dport 8080 accept;", ""))
        start(net, bob, "/ip4/203.0.113.20/tcp/4001", "/ip4/203.0.113.20/tcp/8080/ws")
        start(net, ann, "/ip4/203.0.113.10/tcp/4001")
        become("direct", ann, bob)
        assert peer_of(ann, bob)["address"] == "/ip4/203.0.113.20/tcp/8080/ws"


def test_where_only_http_passes_websocket_does() -> None:
    with internet() as net, repository("ann", "bob") as (ann, bob):
        net.machine("bob", "203.0.113.20/24")
        net.nat("office", "203.0.113.1/24", "10.1.0.1/24")
        net.rules("office", HTTP_ONLY)
        net.behind("office", "ann", "10.1.0.2/24")
        start(net, bob, "/ip4/203.0.113.20/tcp/4001", "/ip4/203.0.113.20/tcp/80/ws")
        start(net, ann)
        become("direct", ann, bob)
        assert peer_of(ann, bob)["address"] == "/ip4/203.0.113.20/tcp/80/ws"
        assert ann.json("lease", "src/auth.py")["granted"]
        bob.coord("lease", "src/auth.py", expect=3)


# --- IPv6 ---------------------------------------------------------------------------------------------------------------------


def test_with_ipv6_alone_they_meet_by_default() -> None:
    with internet() as net, repository("ann", "bob") as (ann, bob):
        for clone, address in ((ann, "2001:db8::a/64"), (bob, "2001:db8::b/64")):
            net.machine(clone.name, address)
            start(net, clone)
        become("direct", ann, bob)
        assert {peer_of(ann, bob)["address"][:15], peer_of(bob, ann)["address"][:15]} == {"/ip6/2001:db8::"}


def test_a_relay_and_a_hole_in_ipv6_firewalls() -> None:
    stateful = """
    table inet filter {
      chain input {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; ct state established,related accept;
      }
    }
    """
    with internet() as net, repository("relay", "ann", "bob") as (relay, ann, bob):
        net.machine("relay", "2001:db8::10/64")
        start(net, relay, "/ip6/2001:db8::10/tcp/4001", relay_service="true")
        for clone, address in ((ann, "2001:db8::a/64"), (bob, "2001:db8::b/64")):
            net.machine(clone.name, address)
            net.rules(clone.name, stateful)
            start(net, clone)
        become("direct", ann, bob)
        ups = [event for clone in (ann, bob) for event in clone.events("peer-connected")]
        assert any("/p2p-circuit" in event["data"]["address"] for event in ups), "the relay came first"
