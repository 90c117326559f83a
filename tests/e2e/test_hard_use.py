"""Clones as they are used and misused: values that are too much, folders that are copied, moved or removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial

import pytest
from tests.e2e.clones import LOOPBACK, Clone, connected, repository, wait_for

from sudocode_coordination.cli.doctor import IDENTITY_BYTES


def test_what_can_not_be_shared_is_refused_and_nothing_changes() -> None:
    with repository("ann") as (ann,):
        ann.start()
        ann.coord("work", "set", "--file", "a.py")
        ann.coord("issue", "update", "1", "--title", "before")
        deep = json.dumps(json.loads("[" * 40 + "]" * 40))
        for said in (
            ann.coord("work", "set", "--meta", f"deep={deep}", expect=2),
            ann.coord("issue", "update", "1", "--set", f"title={'x' * 90_000}", expect=2),
            ann.coord("spec", "update", "s.md", "--set", f"big={12**40}", expect=2),
        ):
            assert said.stdout == ""
            assert said.stderr.startswith("error: ")
        status = ann.json("status")
        assert status["problems"] == []
        assert [work["files"] for work in status["work"]] == [["a.py"]]
        [issue] = ann.json("issue", "show")["issues"]
        assert issue["fields"]["title"]["value"] == "before"
        ann.coord("issue", "update", "2", "--set", f"big={'x' * 90_000}", "--draft")
        ann.coord("draft", "publish", "--all", expect=2)
        assert [draft["target"] for draft in ann.json("draft", "list")["drafts"]] == ["2"]


def test_a_copied_clone_gets_an_identity_of_its_own() -> None:
    with repository("ann") as clones:
        [ann] = clones
        ann.start()
        ann.coord("lease", "src/auth.py")
        shutil.copytree(ann.folder, ann.folder.parent / "copy", ignore=shutil.ignore_patterns("*.sock"))
        copy = Clone(ann.folder.parent / "copy")
        clones.append(copy)
        assert any("copy of the one" in finding["message"] for finding in copy.json("doctor")["findings"])
        said = copy.coord("start", "--agent-id", "copy", "--listen", "/ip4/127.0.0.1/tcp/0").stdout
        assert f"copy of the one at {ann.folder}" in said
        assert copy.json("status")["peerId"] != ann.json("status")["peerId"]
        wait_for("they meet", lambda: connected(ann, copy))
        assert copy.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "ann"
        copy.coord("stop")
        peer_id = copy.start()["peerId"]
        assert peer_id != ann.json("status")["peerId"]
        assert "copy" not in " ".join(finding["message"] for finding in ann.json("doctor")["findings"] if not finding["ok"])


@pytest.mark.slow
def test_a_copy_that_could_not_be_told_from_its_original_is_noticed_on_the_branch() -> None:
    often = ("--discovery-interval", "1s")
    with repository("ann") as clones:
        [ann] = clones
        ann.start(*often)
        shutil.copytree(ann.folder, ann.folder.parent / "copy", ignore=shutil.ignore_patterns("*.sock", "home"))
        copy = Clone(ann.folder.parent / "copy")
        clones.append(copy)
        assert copy.start(*often)["peerId"] == ann.json("status")["peerId"]

        def told(clone: Clone) -> bool:
            return any("this one's identity" in problem for problem in clone.json("status")["problems"])

        for clone in (ann, copy):
            wait_for("it is told", partial(told, clone), 90)
            assert not clone.json("doctor", expect=1)["ok"]


@pytest.mark.slow
def test_two_clones_with_one_agent_id_are_told() -> None:
    often = ("--listen", LOOPBACK, "--discovery-interval", "1s")
    with repository("ann", "bob") as (ann, bob):
        ann.coord("start", "--agent-id", "one", *often)
        wait_for("the record is pushed", lambda: ann.json("status")["remote"]["pushes"])
        bob.coord("start", "--agent-id", "one", *often)
        [problem] = wait_for("it is told", lambda: ann.json("status")["problems"])
        assert "uses the agent id 'one' too" in problem
        assert not ann.json("doctor", expect=1)["ok"]


def test_a_stop_right_after_a_start_that_was_not_waited_for() -> None:
    with repository("ann") as (ann,):
        ann.coord("start", "--listen", LOOPBACK, "--timeout", "1ms", expect=1)
        wait_for("it has begun", (ann.state_dir / "daemon.lock").exists)
        ann.coord("stop")
        ann.coord("status", expect=4)


def test_doctor_sees_an_identity_that_the_next_start_refuses() -> None:
    with repository("ann") as (ann,):
        ann.start()
        ann.coord("stop")
        key = ann.state_dir / "identity.key"
        assert key.stat().st_size == IDENTITY_BYTES
        for spoil in (lambda: key.chmod(0o644), lambda: key.write_bytes(b"short")):
            spoil()
            broken = [finding["name"] for finding in ann.json("doctor", expect=1)["findings"] if not finding["ok"]]
            assert broken == ["identity"]
            assert ann.json("start", expect=1)["error"]["code"] == "storage"


@pytest.mark.usefixtures("warm_daemons")
def test_doctor_looks_where_the_daemon_looks() -> None:
    with repository("ann") as (ann,):
        ann.start("--branch", "elsewhere")
        wait_for("the record is pushed", lambda: ann.json("status")["remote"]["pushes"])
        found = {finding["name"]: finding["message"] for finding in ann.json("doctor")["findings"]}
        assert found["branch"] == "origin/elsewhere has 1 peer record"
        found = {finding["name"]: finding["message"] for finding in ann.json("doctor", "--branch", "other")["findings"]}
        assert found["branch"] == "origin has no branch other yet"


def test_a_stop_without_the_remote_does_not_claim_that_the_record_is_gone() -> None:
    with repository("ann") as (ann,):
        ann.start()
        wait_for("the record is pushed", lambda: ann.json("status")["remote"]["pushes"])
        remote = ann.folder.parent / "remote.git"
        remote.rename(remote.with_name("away.git"))
        names = [finding["name"] for finding in ann.json("doctor", expect=1)["findings"] if not finding["ok"]]
        assert names.count("remote") == 1
        said = ann.coord("stop").stdout
        assert "leases released" in said
        assert "may stay on the branch until its ttl is over: there is no such remote repository" in said
        remote.with_name("away.git").rename(remote)
        assert "agent-ann.json" in ann.git("--git-dir", str(remote), "ls-tree", "-r", "--name-only", "coordination")


def test_check_does_not_wait_long_for_a_daemon_that_hangs() -> None:
    with repository("ann") as (ann,):
        ann.start()
        pid = ann.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert ann.json("check", "a.py", expect=4)["error"]["code"] == "daemon-busy"
            assert time.monotonic() - began < 10
        finally:
            os.kill(pid, signal.SIGCONT)
