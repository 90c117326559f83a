"""A peer in JavaScript, written from docs/protocol.md alone, meets a real daemon: libp2p, Noise, Yamux and GossipSub from npm."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.bridge.nodejs import Program, need_node, program
from tests.core.feeds import Pen
from tests.e2e.clones import Clone, repository, wait_for

from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.core.feed import encode_envelope
from sudocode_coordination.core.records import build_record

pytestmark = pytest.mark.timeout(300)
LIMIT_S: Final = 60.0


def nobody(folder: Path) -> None:
    """A record of a peer that can't be reached: without all of its peers, a daemon speaks through gossip, too."""
    peers = folder / ".sudocode" / "coordination" / "peers"
    record = build_record(
        Identity(b"n" * 32),
        agent_id="nobody",
        multiaddrs=("/ip4/127.0.0.1/tcp/1",),
        capabilities=(),
        wall_ms=BootClock().now().wall_ms,
        ttl_ms=900_000,
    )
    for line in ("switch -q --orphan coordination", "rm -rfq --ignore-unmatch ."):
        subprocess.run(["git", *line.split()], cwd=folder, check=True, capture_output=True)
    peers.mkdir(parents=True)
    (peers / "agent-nobody.json").write_bytes(record)
    for line in ("add .", "commit -qm nobody", "push -q origin coordination"):
        subprocess.run(["git", *line.split()], cwd=folder, check=True, capture_output=True)


def granted(clone: Clone) -> list[dict[str, Any]]:
    """Leases as the daemon tells them, in the words of the peer."""
    return sorted(
        (
            {
                "name": f"{lease['peerId']}/{lease['claimId'].removeprefix(lease['peerId'] + '.')}",
                "agent": lease["agentId"],
                "resources": lease["resources"],
                "mode": lease["mode"],
                "priority": lease["priority"],
                "ttlMs": lease["ttlMs"],
                "note": lease["note"],
            }
            for lease in clone.json("leases", "--all")["leases"]
        ),
        key=lambda lease: str(lease["name"]),
    )


def test_it_joins_reads_the_feeds_and_is_seen() -> None:
    need_node()
    with repository("ann", "ghost", "js") as (ann, ghost, js):
        nobody(ghost.folder)
        ann.start("--heartbeat", "500ms")
        ann.coord("lease", "src/", "--note", "é \U0001f600", "--priority", "3")
        ann.coord("work", "set", "--issue", "7")
        with program("peer.mjs") as peer:
            peer.tell({"repository": str(js.folder), "remote": "origin", "branch": "coordination", "agentId": "js"})
            me = peer.until("its id", lambda said: said.get("peer"))["peer"]
            hello = peer.until("the daemon's hello", lambda said: said.get("hello"))
            # What was there before it came.
            seen = peer.until("the lease", lambda said: said.get("leases"))
            assert seen["leases"] == granted(ann)
            anns = ann.json("status")["peerId"]
            assert [(name, work["issues"]) for name, work in works(peer).items()] == [(f"{anns}/ann", ["7"])]
            # What comes later, over the stream and through gossip.
            ann.coord("lease", "a.py", "--shared")
            later = peer.until("the later lease", lambda said: len(said.get("leases", ())) == 2)
            assert later["leases"] == granted(ann)
            ann.coord("release", "--all")
            peer.until("the release", lambda said: said.get("leases") == [], after=peer.said.index(later))
            beat = peer.until("a beat through gossip", lambda said: said.get("gossip") == "sudocode/presence")
            assert beat["beat"]["incarnation"] == hello["incarnation"]
            step = peer.until("an envelope through gossip", lambda said: said.get("gossip") == "sudocode/sync")
            assert {beat["of"], step["of"]} == {anns}
            # The daemon's side.
            (shown,) = [other for other in ann.json("peers")["peers"] if other["agentId"] == "js"]
            assert (shown["peerId"], shown["connection"], shown["capabilities"]) == (me, "direct", ["réader"])
            assert not [said for said in peer.said if "error" in said]
            assert ann.json("status")["problems"] == []
            # What nobody has signed does not count, wherever it comes from; what somebody has does.
            pen = Pen("zoe")
            sound = pen.write({("leases", "1.1"): {"agent": "zoe", "resources": [["file", "z"]], "state": "granted"}})
            for envelope in (msgspec.structs.replace(sound, owner=anns), msgspec.structs.replace(sound, seq=2), sound):
                peer.tell_line(base64.b64encode(encode_envelope(envelope)).decode())
            peer.until("zoe's lease", lambda said: [lease["agent"] for lease in said.get("leases", ())] == ["zoe"])
            assert len([said for said in peer.said if "forged" in said.get("error", "")]) == 2
            # It leaves in order.
            assert peer.process.stdin is not None
            peer.process.stdin.close()
            peer.until("its leave", lambda said: said.get("left"))
            assert peer.ends() == 0
        wait_for("its record is gone", lambda: "js" not in ann.peers(), LIMIT_S)


def works(peer: Program) -> dict[str, dict[str, Any]]:
    """Active work, as it was shown last."""
    found: dict[str, dict[str, Any]] = [said["work"] for said in peer.said if "work" in said][-1]
    return found
