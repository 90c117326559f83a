"""What the command says where no daemon runs, and to what can't be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.clones import COORD, Clone, repository

ASKING = [
    "status",
    "peers",
    "lease a",
    "renew a",
    "release a",
    "leases",
    "check a",
    "work set --status s",
    "work clear",
    "work show",
    "issue update 1 --title t",
    "issue show",
    "spec update s --title t",
    "spec show",
    "draft list",
    "draft publish --all",
    "events",
    "events --follow",
    "stop",
]
PEERS = ".sudocode/coordination/peers"


@pytest.fixture(scope="module")
def lone() -> Iterator[Clone]:
    with repository("lone") as (clone,):
        yield clone


@pytest.mark.parametrize("line", ASKING)
def test_no_daemon(line: str, lone: Clone) -> None:
    said = lone.coord(*line.split(), expect=4)
    assert said.stdout == ""
    assert said.stderr.startswith("error: no daemon runs in ")
    assert "coord start" in said.stderr
    error = lone.json(*line.split(), expect=4)["error"]
    assert error["code"] == "no-daemon"
    assert set(error) == {"code", "message", "hint"}


def test_no_repository(short_tmp: Path) -> None:
    nowhere = Clone(short_tmp)
    for line in ("status", "start", "check a", "stop"):
        assert nowhere.json(*line.split(), expect=1)["error"]["code"] == "not-a-repository"
    assert nowhere.json("doctor", expect=1)["ok"] is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "lease_ttl=5"], "unknown key 'lease_ttl'"),
        (["--set", "max_peers=none"], "max_peers = 'none' is not allowed"),
        (["--branch=-x"], "coordination_branch"),
        (["--agent-id", "a/b"], "agent_id"),
        (["--set", "git_remote=x", "--remote", "y"], "git_remote is given twice"),
        (["--partition-policy", "maybe"], "--partition-policy"),
    ],
)
def test_impossible_configuration(flags: list[str], words: str, lone: Clone) -> None:
    assert words in lone.coord("start", *flags, expect=2).stderr
    assert not (lone.state_dir / "daemon.sock").exists()


def test_an_address_that_can_not_be_listened_on(lone: Clone) -> None:
    said = lone.json("start", "--listen", "/ip4/203.0.113.7/tcp/1", expect=1)["error"]
    assert said["code"] == "network"
    lone.coord("status", expect=4)


def test_doctor_without_a_daemon(lone: Clone) -> None:
    report = lone.json("doctor")
    assert report["ok"] is True
    daemon = next(finding for finding in report["findings"] if finding["name"] == "daemon")
    assert daemon["hint"] == "coord start"


def test_doctor_names_what_is_broken() -> None:
    with repository("lone") as (lone,):
        lone.git("remote", "set-url", "origin", "/nowhere/at-all.git")
        report = lone.json("doctor", expect=1)
        broken = [finding for finding in report["findings"] if not finding["ok"]]
        assert [finding["name"] for finding in broken] == ["remote"]
        assert "/nowhere/at-all.git can't be reached" in broken[0]["message"]
        lone.git("remote", "remove", "origin")
        assert "no git remote 'origin'" in lone.coord("doctor", expect=1).stdout


def test_doctor_tells_records_that_are_skipped() -> None:
    good = {
        "agentId": "future",
        "multiaddrs": [],
        "publicKey": "k",
        "capabilities": [],
        "lastSeen": "2999-01-01T00:00:00Z",
        "ttl": 60000,
        "ext": {"signature": "s"},
    }
    files = {
        "agent-future.json": json.dumps(good),
        "agent-other.json": json.dumps(good),
        "agent-noise.json": "{",
        "agent-deep.json": "[" * 15_000,
        "agent-large.json": json.dumps({**good, "agentId": "large", "ext": {"x": "y" * 20_000}}),
        "agent-\x1b[2J.json": "{}",
        "readme.txt": "hello",
    }
    with repository("lone") as (lone,):
        lone.git("checkout", "-q", "--orphan", "coordination")
        lone.git("rm", "-rfq", ".")
        folder = lone.folder / PEERS
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        (folder / "agent-link.json").symlink_to("agent-future.json")
        lone.git("add", "-A")
        lone.git("commit", "-q", "-m", "hostile")
        lone.git("push", "-q", "origin", "coordination")
        findings = lone.json("doctor", expect=1)["findings"]
        assert [finding["message"] for finding in findings if finding["name"] == "branch"] == [
            "origin/coordination has 1 peer record"
        ]
        skipped = "\n".join(finding["message"] for finding in findings if finding["name"] == "record-skipped")
        for words in (
            "agent-other.json",
            "agent-noise.json",
            "agent-deep.json",
            "agent-large.json",
            "readme.txt",
            "agent-link.json",
        ):
            assert f"{words} is skipped" in skipped
        assert "\x1b" not in lone.coord("doctor", expect=1).stdout
        clock = next(finding for finding in findings if finding["name"] == "clock")
        assert clock["ok"] is False
        assert "in the future" in clock["message"]


def test_sudocode_passes_on(short_tmp: Path, lone: Clone) -> None:
    own = str(Path(COORD).parent / "sudocode")
    other = short_tmp / "bin" / "sudocode"
    other.parent.mkdir()
    other.write_text('#!/bin/sh\necho "the other: $*"\nexit 7\n')
    other.chmod(0o755)
    environment = {"PATH": f"{Path(own).parent}:{other.parent}:/usr/bin:/bin"}
    passed = subprocess.run([own, "plan", "a b"], env=environment, capture_output=True, text=True, check=False)
    assert (passed.returncode, passed.stdout) == (7, "the other: plan a b\n")
    alone = subprocess.run(
        [own, "plan"], env={"PATH": f"{Path(own).parent}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 127
    assert "no other `sudocode` is on PATH" in alone.stderr
    ours = subprocess.run([own, "coord", "status"], cwd=lone.folder, capture_output=True, text=True, check=False)
    assert ours.returncode == 4
