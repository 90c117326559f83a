"""Every command against two running daemons: what it prints, how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from tests.e2e.clones import COORD, Clone, connected, repository, wait_for


@pytest.fixture(scope="module")
def swarm() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        wait_for("they meet", lambda: connected(alice, bob), 10.0)
        yield alice, bob


def test_status_and_peers(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    status = alice.json("status")
    assert status["state"] == "active"
    assert status["agents"][0]["agentId"] == "alice"
    assert status["remote"]["name"] == "origin"
    text = alice.coord("status").stdout
    assert text.startswith("active: alice")
    assert "1 of 1 other clones connected" in text
    peers = {peer["agentId"]: peer for peer in alice.json("peers")["peers"]}
    assert peers["bob"]["connection"] == "direct"
    assert peers["bob"]["address"].startswith("/ip4/127.0.0.1/tcp/")
    assert peers["bob"]["capabilities"] == ["code", "review", "test"]
    assert "bob" in alice.coord("peers").stdout


def test_lease_renew_release(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    assert "leased c/one.py, c/two.py to alice" in alice.coord("lease", "c/one.py", "c/two.py", "--ttl", "1h").stdout
    assert bob.json("lease", "c/two.py", "c/three.py", expect=3)["granted"] is False
    assert "c/three.py" not in json.dumps(alice.json("leases", "--all")), "all or none"
    assert alice.json("renew", "c/one.py", "--ttl", "30m")["leases"][0]["ttlMs"] == 1_800_000
    assert "c/one.py" in alice.coord("leases").stdout
    assert alice.json("release", "c/one.py", "c/two.py")["released"]
    assert alice.coord("release", "c/one.py").stdout == "nothing to release\n"


def test_ids_are_written_as_they_are_printed(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "issue:#7")
    assert "issue:#7: held by alice" in bob.coord("check", "--issue", "#7", expect=3).stdout
    assert "issue:#7: held by alice" in bob.coord("check", "issue:#7", expect=3).stdout
    alice.coord("lease", "--type", "component", "ui")
    assert bob.json("lease", "component:ui", expect=3)["granted"] is False
    released = alice.coord("release", "--all").stdout
    assert "issue:#7" in released
    assert "component:ui" in released


def test_paths_are_named_from_the_root(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    done = subprocess.run(
        [COORD, "lease", "auth.py", "--json"], cwd=alice.folder / "src", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["lease"]["resources"] == [["file", "src/auth.py"]]
    assert "held by alice" in bob.coord("check", str(bob.folder / "src" / "auth.py"), expect=3).stdout
    alice.coord("release", "src/auth.py")
    assert "outside of this repository" in alice.coord("lease", "../elsewhere", expect=2).stderr


def test_waiting_in_turn(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "w.py")
    with bob.popen("lease", "w.py", "--wait", "30s", "--json") as waiting:
        wait_for("alice sees that bob waits", lambda: "waiting" in alice.coord("leases", "--all").stdout)
        alice.coord("release", "w.py")
        out, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0
    assert json.loads(out)["granted"] is True
    bob.coord("release", "w.py")


def test_waiting_ends_by_its_limit(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "l.py")
    assert bob.json("lease", "l.py", "--wait", "300ms", expect=3)["granted"] is False
    alice.coord("release", "l.py")


def test_an_interrupted_wait_leaves_no_claim(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "i.py")

    def waiting_for() -> str:
        return json.dumps([lease for lease in bob.json("leases", "--all")["leases"] if lease["state"] == "pending"])

    with bob.popen("lease", "--wait", "i.py") as process:
        wait_for("bob waits", lambda: "i.py" in waiting_for())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
    wait_for("the claim is gone", lambda: "i.py" not in waiting_for())
    alice.coord("release", "i.py")


def test_agents_of_one_clone(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    alice.coord("lease", "a.py", "--agent", "carol")
    assert "held by carol" in alice.coord("lease", "a.py", COORD_AGENT="dave", expect=3).stderr
    assert alice.coord("check", "a.py", "--agent", "carol").returncode == 0
    assert alice.coord("check", "a.py", COORD_AGENT="dave", expect=3).returncode == 3
    assert [lease["agentId"] for lease in alice.json("leases", "--agent", "carol")["leases"]] == ["carol"]
    assert alice.json("release", "a.py", "--agent", "carol")["released"]
    assert alice.json("status", "--agent", "no such id", expect=2)["error"]["code"] == "usage"


def test_work(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    meta = ("--meta", "branch=feature/oauth", "--meta", "n=1")
    set_ = alice.json("work", "set", "--issue", "#42", "--file", "src/x.py", "--status", "Token refresh", *meta)
    assert set_["work"][0]["metadata"] == {"branch": "feature/oauth", "n": 1}
    wait_for("bob sees it", lambda: "Token refresh" in bob.coord("work", "show").stdout)
    found = bob.json("check", "src/x.py", "--issue", "#42", expect=3)["conflicts"]
    assert {(c["kind"], c["agentId"]) for c in found} == {("work", "alice")}
    assert alice.json("work", "clear") == {"cleared": True}
    wait_for("bob sees that", lambda: bob.json("work", "show", "--agent", "alice")["work"] == [])


def test_issues_specs_and_drafts(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("issue", "update", "#9", "--title", "New title", "--set", 'checklist={"a": true}')
    wait_for("bob sees the issue", lambda: bob.json("issue", "show", "#9")["issues"])
    fields = bob.json("issue", "show", "#9")["issues"][0]["fields"]
    assert fields["title"]["value"] == "New title"
    assert fields["checklist"]["value"] == {"a": True}
    drafted = alice.json("spec", "update", "specs/auth.md", "--status", "rewriting", "--draft")["drafts"][0]
    assert alice.json("draft", "list")["drafts"][0]["draftId"] == drafted["draftId"]
    assert bob.json("spec", "show")["specs"] == []
    assert "published spec specs/auth.md" in alice.coord("draft", "publish", "--all").stdout
    wait_for("bob sees the spec", lambda: "rewriting" in bob.coord("spec", "show", "specs/auth.md").stdout)
    assert alice.json("draft", "list")["drafts"] == []


def test_events_follow(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    with bob.popen("events", "--follow", "--last", "0") as process:
        assert process.stdout is not None
        alice.coord("lease", "e.py")
        alice.coord("release", "e.py")
        for line in process.stdout:
            event = json.loads(line)
            assert set(event) == {"type", "agentId", "timestamp", "data"}
            if event["type"] == "heartbeat-sent":
                # The subscription may have come after the lease.
                alice.coord("lease", "e.py")
                alice.coord("release", "e.py")
            if event["type"] == "lease-released":
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "")


def test_nobody_reads(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([COORD, "status"], cwd=alice.folder, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, "")


def test_doctor(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    report = alice.json("doctor")
    assert report["ok"] is True
    names = {finding["name"] for finding in report["findings"]}
    assert names >= {"git", "repository", "configuration", "disk", "daemon", "socket", "remote", "branch", "clock", "addresses"}
    assert alice.coord("doctor").stdout.endswith("all is well\n")


def test_the_fast_check_says_what_the_full_one_says(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "k.py", "--note", "Grüße", "--priority", "2")
    for words, code in ((["k.py"], 3), (["k.py", "other.py"], 3), (["other.py"], 0)):
        # With an option before the command the full parser does it.
        quick, full = bob.json("check", *words, expect=code), json.loads(bob.coord("--json", "check", *words, expect=code).stdout)
        for conflict in (*quick["conflicts"], *full["conflicts"]):
            conflict.pop("remainingMs")
        assert quick == full
    alice.coord("release", "k.py")


def test_agents_talk(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    assert "nobody else holds t/asked.py" in bob.coord("ask", "t/asked.py", expect=2).stderr
    alice.coord("lease", "t/asked.py")
    wait_for("bob sees the lease", lambda: "alice" in bob.coord("leases", "--all").stdout)
    assert "is not usable" in bob.coord("say", "--to", "no name", "x", expect=2).stderr
    asked = bob.json("ask", "t/asked.py", "--ttl", "5m")
    assert (asked["kind"], asked["to"], asked["resource"]) == ("release", ["alice"], ["file", "t/asked.py"])
    wait_for("alice has it", lambda: alice.json("messages")["messages"])
    wait_for("alice was told", lambda: "message-received" in alice.coord("events").stdout)
    alice.json("say", "--reply", asked["messageId"], "done")
    [read] = alice.json("messages", "--ack")["messages"]
    assert read["messageId"] == asked["messageId"]
    assert alice.json("messages")["messages"] == []
    wait_for("bob has the answer", lambda: [m["replyTo"] for m in bob.json("messages")["messages"]] == [asked["messageId"]])
    wait_for("bob sees that it was read", lambda: "message-acknowledged" in bob.coord("events").stdout)
    assert "is no message for bob" in bob.coord("messages", "--ack", asked["messageId"], expect=2).stderr
    assert ": coord --agent bob messages" in bob.coord("--agent", "bob", "ask", "t/asked.py").stdout
    assert "there is no message 'feed' to answer" in bob.coord("say", "--reply", "feed", "x", expect=2).stderr
    bob.json("messages", "--ack")
    alice.coord("release", "t/asked.py")
