"""A new key: one push replaces the old records, what was held is released, what was shared goes on, whatever is cut off."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.core.discovery_bench import HIGH, OTHER, Bench, kinds, record
from tests.core.node_bench import NodeBench
from tests.e2e.clones import connected, repository, wait_for
from tests.joining.branch import SOON, Maintainer, findings, peer_id

from sudocode_coordination.adapters import identity as identity_module
from sudocode_coordination.adapters.identity import load_or_create_identity, replace_identity
from sudocode_coordination.api.requests import ListIssues, ListSpecs, UpdateIssue, UpdateSpec
from sudocode_coordination.cli import rotating
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core import handing_over
from sudocode_coordination.core.facts import Notify
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, Publish, StopRequested, StoredValue
from sudocode_coordination.core.node import Node
from sudocode_coordination.core.records import Succession, build_record, predecessor, rotation_bytes
from sudocode_coordination.daemon.rotation import MAX_KEPT, ROTATED_FILE, former_lives, rotate
from sudocode_coordination.errors import AlreadyRunningError, CoordinationError, StorageError, UsageError
from sudocode_coordination.place import IDENTITY_FILE, Clone, find_clone
from sudocode_coordination.sim.identity import SimKeyring

pytestmark = pytest.mark.usefixtures("warm_daemons")


@pytest.fixture
def clone(short_tmp: Path) -> Clone:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    found = find_clone(str(short_tmp))
    Path(found.state_dir).mkdir(mode=0o700)
    return found


def key_file(clone: Clone) -> Path:
    return Path(clone.state_file(IDENTITY_FILE))


# --- the key on the disk ------------------------------------------------------------------------------------------------------


def test_the_old_key_is_gone_and_has_named_the_new_one(clone: Clone) -> None:
    old = load_or_create_identity(key_file(clone))
    told = rotate(clone)
    new = load_or_create_identity(key_file(clone))
    assert told == (old.peer_id, new.peer_id)
    assert old.peer_id != new.peer_id
    assert key_file(clone).stat().st_mode & 0o777 == 0o600
    left = b"".join(path.read_bytes() for path in Path(clone.state_dir).rglob("*") if path.is_file())
    assert old.seed not in left
    [former] = former_lives(clone, new.peer_id)
    assert former.peer == old.peer_id
    assert new.verify(old.peer_id, rotation_bytes(new.peer_id), former.signature)


def test_cut_off_before_the_key_is_written_nothing_has_changed(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    old = load_or_create_identity(key_file(clone))

    def full(*_: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("sudocode_coordination.daemon.rotation.replace_identity", full)
        with pytest.raises(StorageError, match="no space"):
            rotate(clone)
    assert load_or_create_identity(key_file(clone)).peer_id == old.peer_id
    assert (Path(clone.state_dir) / ROTATED_FILE).exists(), "the note was written first"
    assert former_lives(clone, old.peer_id) == (), "and names a successor that never came"
    _, new = rotate(clone)
    assert [former.peer for former in former_lives(clone, new)] == [old.peer_id]


def test_a_key_that_cannot_be_written_leaves_the_old_one(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    old = load_or_create_identity(key_file(clone))

    def no(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no)
    with pytest.raises(StorageError, match="No space"):
        replace_identity(key_file(clone), identity_module.generate_identity())
    monkeypatch.undo()
    assert load_or_create_identity(key_file(clone)).peer_id == old.peer_id
    assert [path.name for path in Path(clone.state_dir).iterdir()] == [IDENTITY_FILE]


def test_former_ids_are_a_chain_of_a_few(clone: Clone) -> None:
    load_or_create_identity(key_file(clone))
    ids = [rotate(clone)[0] for _ in range(MAX_KEPT + 3)]
    now = load_or_create_identity(key_file(clone)).peer_id
    assert [former.peer for former in former_lives(clone, now)] == ids[::-1][:MAX_KEPT]
    (Path(clone.state_dir) / ROTATED_FILE).write_bytes(b"{")
    assert former_lives(clone, now) == ()


def test_it_needs_a_key_and_no_daemon(clone: Clone) -> None:
    from sudocode_coordination.daemon.lifecycle import hold

    with pytest.raises(UsageError, match="no key yet"):
        rotate(clone)
    load_or_create_identity(key_file(clone))
    with hold(clone), pytest.raises(AlreadyRunningError):
        rotate(clone)


# --- what peers make of it ------------------------------------------------------------------------------------------------------


def rotated(old: SimKeyring, new: SimKeyring, agent: str, *, by: SimKeyring | None = None) -> bytes:
    signature = (by or old).sign(rotation_bytes(new.peer_id))
    return build_record(
        new,
        agent_id=agent,
        multiaddrs=("/ip4/192.0.2.9/tcp/1",),
        capabilities=(),
        wall_ms=1_800_000_000_000,
        ttl_ms=900_000,
        replaces=Succession(peer=old.peer_id, signature=signature),
    )


def test_who_named_a_successor_counts_no_more_and_it_is_told_once() -> None:
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), "agent-x.json": record(OTHER, "x"), "agent-z.json": record(OTHER, "z")}
    bench.wait(80_000)
    bench.do(bench.machine.connected_changed(frozenset({OTHER.peer_id}), bench.now()))
    bench.outputs.clear()
    bench.branch["agent-x.json"] = rotated(OTHER, HIGH, "x")
    bench.wait(200_000)
    assert list(bench.machine.known) == [HIGH.peer_id], "its other record, still there, lets it in no more"
    told = [n for n in kinds(bench.outputs, Notify) if n.type == "peer-rotated"]
    assert [(n.agent_id, n.data) for n in told] == [("x", {"peerId": HIGH.peer_id, "formerPeerId": OTHER.peer_id})]


def test_a_clone_whose_own_key_named_a_successor_is_told() -> None:
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), "agent-x.json": rotated(bench.key, HIGH, "x")}
    bench.wait(80_000)
    [problem] = bench.machine.clashes(bench.instant)
    assert HIGH.peer_id in problem
    assert "coord rotate-key" in problem


def test_nobody_names_a_successor_for_another() -> None:
    bench = Bench().settled()
    forged = rotated(OTHER, HIGH, "y", by=HIGH)
    bench.branch = {**(bench.branch or {}), "agent-x.json": record(OTHER, "x"), "agent-y.json": forged}
    bench.wait(80_000)
    assert sorted(bench.machine.known) == sorted((OTHER.peer_id, HIGH.peer_id))
    assert not [n for n in kinds(bench.outputs, Notify) if n.type == "peer-rotated"]


def test_one_push_replaces_all_records_of_before() -> None:
    bench = Bench()
    former = Succession(peer=OTHER.peer_id, signature=OTHER.sign(rotation_bytes(bench.key.peer_id)))
    bench.do(bench.machine.started(bench.now(), DiskContents(), (former,)))
    bench.do(bench.machine.agents_changed({"me": ("code",)}, bench.now()))
    bench.do(bench.machine.listening(("/ip4/192.0.2.7/tcp/1",), bench.now()))
    bench.read(
        {"agent-me.json": record(OTHER, "me"), "agent-helper.json": record(OTHER, "helper"), "agent-y.json": record(HIGH, "y")}
    )
    assert list(bench.machine.known) == [HIGH.peer_id]
    [push] = bench.of(Publish)
    assert sorted(push.changes) == ["agent-helper.json", "agent-me.json"]
    assert push.changes["agent-helper.json"] is None
    told = json.loads(push.changes["agent-me.json"])["ext"]
    assert (told["peerId"], told["replaces"]["peerId"]) == (bench.key.peer_id, OTHER.peer_id)
    bench.landed(push)
    bench.wait(5_000)
    assert bench.machine.published
    assert not bench.machine.clashes(bench.instant)


@pytest.mark.parametrize("replaces", [None, 1, {}, {"peerId": "x", "signature": 1}, {"peerId": "é", "signature": "AA=="}])
def test_a_malformed_word_of_a_successor_is_none(replaces: Any) -> None:
    from sudocode_coordination.model import PeerRecord

    ext = {"v": 1, "peerId": HIGH.peer_id, "signature": "", "replaces": replaces}
    made = PeerRecord(agent_id="x", multiaddrs=(), public_key="", capabilities=(), last_seen="", ttl=1, ext=ext)
    assert predecessor(made, OTHER) is None


def test_what_was_shared_is_left_on_the_disk_and_taken_over_by_whoever_comes_next() -> None:
    old = NodeBench()
    old.asks(UpdateIssue(issue_id="#7", fields={"status": "in-progress"}))
    old.asks(UpdateSpec(spec_path="specs/a.md", fields={"title": "A"}))
    old.gives(StopRequested(hand_over=True))
    assert not [e for e in old.effects if isinstance(e, Publish) and None in e.changes.values()], "the records stay"
    contents = old.disk()
    kept = [value for value in contents.values if value.space == handing_over.SPACE]
    assert len(kept) == 2
    new = NodeBench(start=False)
    new.keyring = SimKeyring("another key")
    new.node = Node(create_default_config("me"), new.keyring)
    new.begins(msgspec.structs.replace(contents, values=(*contents.values, _unreadable())))
    [issue] = new.asks(ListIssues())
    assert (issue.issue_id, issue.fields["status"].value) == ("#7", "in-progress")
    assert [spec.spec_path for spec in new.asks(ListSpecs())] == ["specs/a.md"]
    operations = [operation for persist in new.of(Persist) for operation in persist.operations]
    forgotten = [op.key for op in operations if isinstance(op, ForgottenValue) and op.space == handing_over.SPACE]
    assert forgotten == ["0", "1", "later"]


def _unreadable() -> StoredValue:
    return StoredValue(space=handing_over.SPACE, key="later", data=b"{}")


# --- real daemons ---------------------------------------------------------------------------------------------------------------


def test_a_running_daemon_gets_a_new_key_and_goes_on() -> None:
    with repository("alice", "bob") as clones:
        alice, bob = clones
        for clone in clones:
            clone.start(*SOON)
        wait_for("they are connected", lambda: connected(*clones), 30)
        alice.coord("lease", "src/auth.py")
        alice.coord("issue", "update", "#7", "--status", "in-progress")
        alice.coord("work", "set", "--file", "src/auth.py")
        wait_for("bob sees it", lambda: bob.json("issue", "show", "#7")["issues"], 30)
        maintainer = Maintainer(alice.folder.parent)
        old = peer_id(alice)
        told = alice.json("rotate-key")
        assert told == {"oldPeerId": old, "newPeerId": peer_id(alice), "leasesReleased": 1, "restarted": True}
        assert told["newPeerId"] != old
        wait_for("they are connected again", lambda: connected(*clones), 60)
        assert json.loads(maintainer.files()["agent-alice.json"])["ext"]["peerId"] == told["newPeerId"]
        trees = [
            json.loads(maintainer.blob(f"{commit}:.sudocode/coordination/peers/agent-alice.json"))["ext"]["peerId"]
            for commit in _commits_with_alice(maintainer)
        ]
        assert set(trees) == {old, told["newPeerId"]}, "no commit in between is without a record of hers"
        wait_for("bob is told", lambda: bob.events("peer-rotated"), 30)
        assert bob.events("peer-rotated")[0]["data"] == {"peerId": told["newPeerId"], "formerPeerId": old}
        assert bob.json("leases", "--all")["leases"] == []
        wait_for("her fields are there still", lambda: bob.json("issue", "show", "#7")["issues"], 30)
        assert bob.coord("lease", "src/auth.py").returncode == 0
        assert [row["peerId"] for row in bob.json("peers")["peers"] if row["agentId"] == "alice"] == [told["newPeerId"]]
        assert not findings(bob, "problem")


def _commits_with_alice(maintainer: Maintainer) -> list[str]:
    """From the first commit that has her record on, all."""
    listed = subprocess.run(
        ["git", "rev-list", "--reverse", "coordination"], cwd=maintainer.remote, capture_output=True, text=True, check=True
    ).stdout.split()
    path = ".sudocode/coordination/peers/agent-alice.json"
    first = subprocess.run(
        ["git", "rev-list", "--reverse", "coordination", "--", path],
        cwd=maintainer.remote,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[0]
    return listed[listed.index(first) :]


@pytest.mark.slow
def test_a_stopped_clone_gets_a_new_key_and_a_killed_one_replaces_its_record() -> None:
    with repository("alice") as (alice,):
        assert alice.coord("rotate-key", expect=2).stderr.startswith("error: this clone has no key yet")
        alice.start(*SOON)
        old = peer_id(alice)
        maintainer = Maintainer(alice.folder.parent)
        wait_for("the record is there", maintainer.files, 30)
        alice.kill()
        told = alice.json("rotate-key")
        assert (told["oldPeerId"], told["restarted"], told["leasesReleased"]) == (old, False, 0)
        alice.start(*SOON)
        assert peer_id(alice) == told["newPeerId"]

        def new_record() -> bool:
            files = maintainer.files()
            return bool(json.loads(files["agent-alice.json"])["ext"]["peerId"] == told["newPeerId"])

        wait_for("the record is replaced", new_record, 30)


def test_a_daemon_that_cannot_be_started_again_is_told_with_the_new_id(monkeypatch: pytest.MonkeyPatch, clone: Clone) -> None:
    def no(*_: object, **__: object) -> int:
        raise CoordinationError("no port")

    monkeypatch.setattr(rotating, "spawn", no)
    with pytest.raises(CoordinationError, match="no port") as told:
        rotating._start_again(clone, {}, "12D3new", 1.0)
    assert "12D3new" in told.value.hint
