"""What a clone publishes is told as it is there, and what it withholds is nowhere."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import plain_host, seed_of
from tests.e2e.clones import LOOPBACK, Clone, connected, repository, wait_for
from tests.joining.branch import PEERS, SOON, Maintainer, peer_id

from sudocode_coordination.adapters.identity import Identity, load_or_create_identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.config import generate_agent_id, names_host
from sudocode_coordination.core.io import Input, Listening
from sudocode_coordination.daemon.lifecycle import settle_config
from sudocode_coordination.place import find_clone

pytestmark = pytest.mark.usefixtures("warm_daemons")

ANNOUNCED = "/dns4/coordination.example.org/tcp/4001"


def test_what_is_told_is_what_is_there() -> None:
    with repository("alice", "bob") as clones:
        alice, bob = clones
        alice.start(*SOON, "--set", "relay_service=true")
        bob.start(*SOON)
        wait_for("they are connected", lambda: connected(*clones), 30)
        alice.coord("lease", "src/auth.py", "--strict", "--note", "for all to read")
        alice.coord("issue", "update", "#7", "--status", "in-progress")
        alice.coord("issue", "update", "#8", "--status", "kept-to-myself", "--draft")
        alice.coord("work", "set", "--status", "Token refresh")
        maintainer = Maintainer(alice.folder.parent)

        def told() -> Any:
            """Once the newest record is on the branch; it may be renewed while we look."""
            answer = alice.json("doctor", "--published")
            records = answer["branch"]["records"]
            files = {f"{PEERS}/{name}": data.decode() for name, data in maintainer.files().items() if b"alice" in data}
            return answer if records and records == files else None

        answer = wait_for("the same bytes", told, 30)
        assert answer["peerId"] == peer_id(alice)
        text = subprocess.run(
            ["git", "cat-file", "commit", str(answer["branch"]["commit"])],
            cwd=maintainer.remote,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert str(answer["branch"]["commitText"]) == text.strip()
        [(path, content)] = answer["table"]["leases"].items()
        assert maintainer.blob(f"{answer['table']['ref']}:{path}").decode() == content
        assert "for all to read" in content
        peers = answer["peers"]
        assert sorted(peers) == ["activeWork", "agentMetadata", "issueUpdates", "leases"]
        assert bob.json("issue", "show", "#7")["issues"][0]["fields"]["status"]["value"] == "in-progress"
        assert "kept-to-myself" not in json.dumps(answer), "drafts stay here"
        [record] = answer["branch"]["records"].values()
        assert answer["network"] is None, "loopback is no network"
        assert json.loads(record)["multiaddrs"] == answer["addresses"]
        assert answer["relays"] == {"used": [], "announced": [], "serves": True, "told": answer["addresses"]}
        at_relay = wait_for("bob is reachable through alice", lambda: bob.json("doctor", "--published")["relays"]["announced"], 30)
        relays = bob.json("doctor", "--published")["relays"]
        assert relays == {"used": [peer_id(alice)], "announced": at_relay, "serves": False, "told": []}
        assert at_relay == [f"{answer['addresses'][0]}/p2p/{peer_id(alice)}/p2p-circuit"]
        assert set(bob.json("doctor", "--published")["branch"]["records"]) == {f"{PEERS}/agent-bob.json"}
        for_people = alice.coord("doctor", "--published").stdout
        for words in ('"agentId": "alice"', "for all to read", "in-progress", "sudocode coordination", "as a relay itself"):
            assert words in for_people
        assert f"{peer_id(alice)} knows this peer id" in bob.coord("doctor", "--published").stdout
        key = load_or_create_identity(alice.state_dir / "identity").seed
        assert key not in b"".join(path.read_bytes() for path in maintainer.remote.rglob("*") if path.is_file())


def test_without_a_daemon_it_says_so() -> None:
    with repository("alice") as (alice,):
        assert "no daemon runs" in alice.coord("doctor", "--published", expect=4).stderr.lower()


# --- what is withheld -----------------------------------------------------------------------------------------------------------


def start_withholding(clone: Clone) -> None:
    clone.coord("start", "--listen", LOOPBACK, "--announce", ANNOUNCED, "--set", "host_in_agent_id=false", *SOON)


def test_names_and_addresses_of_this_machine_can_be_withheld_from_the_branch() -> None:
    with repository("alice") as (alice,):
        start_withholding(alice)
        maintainer = Maintainer(alice.folder.parent)
        wait_for("the record is there", maintainer.files, 30)
        alice.coord("lease", "src/auth.py", "--strict")
        objects = subprocess.run(
            ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=maintainer.remote, capture_output=True, check=True
        ).stdout
        assert ANNOUNCED.encode() in objects
        host = generate_agent_id()[:-12]
        assert host.encode() not in objects
        assert b"127.0.0.1" not in objects
        told = alice.json("doctor", "--published")
        assert host not in json.dumps(told)
        assert "127.0.0.1" not in json.dumps(told)


def test_an_id_with_the_host_in_it_is_replaced_and_others_are_kept(short_tmp: Path) -> None:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    clone = find_clone(str(short_tmp))
    Path(clone.state_dir).mkdir(mode=0o700)
    first = settle_config(clone, {}, {}).agent_id
    assert names_host(first)
    without = settle_config(clone, {"host_in_agent_id": False}, {}).agent_id
    assert not names_host(without)
    assert settle_config(clone, {}, {"COORD_HOST_IN_AGENT_ID": "false"}).agent_id == without
    assert settle_config(clone, {}, {}).agent_id == without
    assert settle_config(clone, {"agent_id": first, "host_in_agent_id": False}, {}).agent_id == first, "who names it means it"
    assert not names_host(generate_agent_id(with_host=False))


@pytest.mark.parametrize("announce", [(), (ANNOUNCED,)], ids=["told", "withheld"])
def test_a_peer_that_asks_libp2p_learns_what_is_announced(announce: tuple[str, ...]) -> None:
    mallory = Identity(seed_of("mallory")).peer_id
    got: list[Input] = []

    async def asked() -> list[str]:
        network = Libp2pNetwork(Identity(seed_of("ann")), (LOOPBACK,), got.append, announce_addresses=announce)
        network.admit((mallory,))
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            running = network._links.running
            assert running is not None
            own = str(running.host.get_transport_addrs()[0])
            async with plain_host("mallory") as host:
                peer = ID.from_base58(network.peer_id)
                await host.get_network().dial_addr(Multiaddr(own), peer)
                stream = await host.new_stream(peer, [TProtocol("/ipfs/id/1.0.0")])
                answer = parse_identify_response(await stream.read(8_192))
                await stream.close()
            nursery.cancel_scope.cancel()
        assert answer.listen_addrs
        assert (own.encode() in answer.SerializeToString()) is False, "addresses are binary there"
        private = Multiaddr(own).to_bytes()
        assert (private in answer.SerializeToString()) is not bool(announce), "nor in the signed record"
        return [str(Multiaddr(address)) for address in answer.listen_addrs]

    told = trio.run(asked)
    assert next(item.addresses for item in got if isinstance(item, Listening)) == (announce or tuple(told))
    if announce:
        assert told == [ANNOUNCED]
