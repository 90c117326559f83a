"""Clones on one local network meet without the git remote, by multicast DNS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.clones import Clone, connected, repository, wait_for
from tests.nat.nets import Internet, internet

from sudocode_coordination.adapters.lan import Lan
from sudocode_coordination.core.io import AddressesSighted, Input
from sudocode_coordination.core.nearby import name_on_network, told_on_network


def start(net: Internet, clone: Clone, home: Path, *settings: str) -> None:
    """On a machine of its own, with a runtime folder of its own."""
    home.mkdir(mode=0o700, exist_ok=True)
    clone.coord("start", "--agent-id", clone.name, *settings, on=net.command(clone.name), XDG_RUNTIME_DIR=str(home))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("mdns", ["true", "false"])
def test_two_that_knew_each_other_meet_with_the_remote_away(short_tmp: Path, mdns: str) -> None:
    with internet() as net, repository("ann", "bob") as (ann, bob):
        for number, clone in enumerate((ann, bob), 1):
            net.machine(clone.name, f"192.0.2.{number}/24")
            start(net, clone, short_tmp / clone.name, "--set", f"mdns={mdns}")
        wait_for("they meet", lambda: connected(ann, bob) or None, 30.0)
        remote = ann.folder.parent / "remote.git"
        remote.rename(remote.with_name("away.git"))
        for clone in (ann, bob):
            clone.coord("stop", expect=None)
        for clone in (ann, bob):  # at other ports than those that each remembers of the other
            start(net, clone, short_tmp / clone.name, "--set", f"mdns={mdns}")
        if mdns == "true":
            wait_for("they meet again", lambda: connected(ann, bob) or None, 30.0)
            assert ann.peers()["bob"] == "direct"
        else:
            wait_for("it has tried", lambda: ann.json("status")["remote"]["state"] == "unreachable", 30.0)
            assert ann.peers().get("bob") not in ("direct", "relayed")


LISTEN = """
import json, sys, time
from zeroconf import IPVersion, ServiceBrowser, Zeroconf
net, found = Zeroconf(interfaces=[sys.argv[1]], ip_version=IPVersion.V4Only), []
ServiceBrowser(net, sys.argv[2], handlers=[lambda zeroconf, service_type, name, state_change: found.append(name)])
until = time.monotonic() + 20
while not found and time.monotonic() < until:
    time.sleep(0.05)
info = net.get_service_info(sys.argv[2], found[0], timeout=5000)
told = {"name": info.name, "server": info.server, "addresses": info.parsed_addresses(), "port": info.port, "text": info.text.hex()}
print(json.dumps(told))
net.close()
"""
"""What a stranger on the network hears: argv[1] is its address, argv[2] the service."""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_a_stranger_hears_is_what_doctor_shows(short_tmp: Path) -> None:
    with internet() as net, repository("ann", "bob") as (ann, bob):
        for number, name in enumerate(("ann", "bob", "eve"), 1):
            net.machine(name, f"192.0.2.{number}/24")
        start(net, ann, short_tmp / "ann")
        shown = wait_for("it is told", lambda: ann.json("doctor", "--published")["network"], 30.0)
        command = [*net.command("eve"), sys.executable, "-c", LISTEN, "192.0.2.3", shown["service"]]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        assert told == {
            "name": f"{shown['name']}.{shown['service']}",
            "server": f"{shown['name']}.local.",
            "addresses": shown["addresses"],
            "port": shown["port"],
            "text": "",
        }
        for secret in ("ann", ann.json("status")["peerId"]):
            assert secret not in json.dumps(told)
        assert "192.0.2.1" in ann.coord("doctor", "--published").stdout
        start(net, bob, short_tmp / "bob", "--set", "mdns=false")
        assert bob.json("doctor", "--published")["network"] is None


def test_what_is_told_is_a_port_and_addresses_beyond_this_machine() -> None:
    shown = (
        "/ip4/192.0.2.1/tcp/7/ws",
        "/ip4/192.0.2.1/tcp/5",
        "/ip4/10.0.0.1/tcp/5",
        "/ip4/127.0.0.1/tcp/5",
        "/ip4/10.0.0.1/tcp/6",
    )
    assert told_on_network(shown) == (5, ("192.0.2.1", "10.0.0.1"))
    assert told_on_network(("/ip4/127.0.0.1/tcp/5", "/ip6/::1/tcp/5", "/dns4/example.org/tcp/5")) is None
    assert told_on_network(()) is None


def test_what_others_tell_is_handed_on_when_it_changes() -> None:
    got: list[Input] = []
    lan = Lan("ann", got.append)
    assert lan._name == name_on_network("ann")
    lan._sighted("b", ("/ip4/192.0.2.2/tcp/1",))
    lan._sighted("b", ("/ip4/192.0.2.2/tcp/1",))
    lan._sighted("c", ())
    lan._sighted("c", ("/ip4/192.0.2.3/tcp/1",))
    lan._sighted("b", ())
    last = got[-1]
    assert isinstance(last, AddressesSighted)
    assert last.addresses == {"c": ("/ip4/192.0.2.3/tcp/1",)}
    assert len(got) == 3
