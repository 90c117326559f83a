"""Signed commits on the coordination branch: who may sign vouches, others can renew and remove, and let nobody in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conformance.git_bench import Handle, Loop, git, make_remote, running_loop
from tests.joining.branch import PEERS

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.core.admission import Rules
from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead
from sudocode_coordination.core.records import build_record, peer_in

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="git signs and checks with ssh-keygen (openssh-client)")
EVE = Identity(b"eve".ljust(32, b"."))
EVES = build_record(EVE, agent_id="eve", multiaddrs=(), capabilities=(), wall_ms=1_800_000_000_000, ttl_ms=900_000)


@dataclass
class Member:
    """One clone with its identity, its key for signing, and its git port."""

    name: str
    identity: Identity
    clone: Path
    handle: Handle
    key: Path

    def record(self, wall_ms: int = 1_800_000_000_000) -> bytes:
        return build_record(self.identity, agent_id=self.name, multiaddrs=(), capabilities=(), wall_ms=wall_ms, ttl_ms=900_000)

    @property
    def file(self) -> str:
        return f"agent-{self.name}.json"

    def join(self) -> BranchPublished | BranchPublishFailed:
        return self.handle.publish({self.file: self.record()})

    def read(self) -> BranchRead:
        found = self.handle.read()
        assert isinstance(found, BranchRead), found
        return found


class Repo:
    """A remote whose default branch says that commits must be signed, by which keys."""

    def __init__(self, folder: Path, loop: Loop) -> None:
        self.folder, self.loop = folder, loop
        self.remote = make_remote(folder)
        self.members: list[Member] = []

    def member(self, name: str, *, rules: Rules = Rules(), max_history: int = 500) -> Member:  # noqa: B008 - immutable
        clone = self.folder / name
        git(self.folder, "clone", "-q", str(self.remote), str(clone))
        key = self.folder / f"key-{name}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
        git(clone, "config", "user.signingKey", str(key.with_suffix(".pub")))
        identity = Identity(name.encode().ljust(32, b"."))
        handle = Handle(
            self.loop,
            clone / ".git",
            rules=rules,
            rules_folder=clone / ".git" / "state",
            me=identity.peer_id,
            peer_in=lambda file, data: peer_in(file, data, identity),
            max_history=max_history,
        )
        member = Member(name, identity, clone, handle, key)
        self.members.append(member)
        return member

    def rules(self, *signers: Member, text: str = 'signed_commits = "require"\n') -> None:
        work = self.folder / "maintainer"
        if not work.exists():
            git(self.folder, "clone", "-q", str(self.remote), str(work))
        (work / ".sudocode").mkdir(exist_ok=True)
        (work / ".sudocode" / "coordination.toml").write_text(text, "utf-8")
        lines = [f'{member.name} namespaces="git" {member.key.with_suffix(".pub").read_text("utf-8")}' for member in signers]
        (work / ".sudocode" / "allowed_signers").write_text("".join(lines), "utf-8")
        git(work, "add", "-A", ".")
        git(work, "commit", "-q", "-m", "rules")
        git(work, "push", "-q", "origin", "HEAD:main")

    def unsigned(self, files: dict[str, bytes | None]) -> None:
        """Somebody pushes a commit with plain git."""
        work = self.folder / "by-hand"
        if not work.exists():
            git(self.folder, "clone", "-q", str(self.remote), str(work))
        git(work, "fetch", "-q", "origin", "coordination")
        git(work, "checkout", "-q", "--detach", "FETCH_HEAD")
        for name, data in files.items():
            if data is None:
                (work / PEERS / name).unlink()
            else:
                (work / PEERS / name).write_bytes(data)
        git(work, "add", "-A", ".")
        git(work, "commit", "-q", "-m", "by hand")
        git(work, "push", "-q", "origin", "HEAD:coordination")

    def files(self) -> list[str]:
        listed = git(self.remote, "ls-tree", "-r", "--name-only", "coordination").split()
        return [path.removeprefix(f"{PEERS}/") for path in listed]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with running_loop() as loop:
        yield Repo(tmp_path, loop)


def test_without_the_rule_commits_are_not_signed(repo: Repo) -> None:
    ann = repo.member("ann")
    assert isinstance(ann.join(), BranchPublished)
    assert "gpgsig" not in git(repo.remote, "cat-file", "commit", "coordination")
    assert ann.read().vouched is None


def test_a_signed_commit_introduces_and_an_unsigned_one_does_not(repo: Repo) -> None:
    ann, ben = repo.member("ann"), repo.member("ben")
    repo.rules(ann, ben)
    assert isinstance(ann.join(), BranchPublished)
    assert isinstance(ben.join(), BranchPublished)
    git(repo.folder / "ann", "fetch", "-q")
    signers = f"gpg.ssh.allowedSignersFile={repo.folder / 'maintainer' / '.sudocode' / 'allowed_signers'}"
    git(repo.folder / "ann", "-c", signers, "verify-commit", "origin/coordination")
    both = tuple(sorted((ann.identity.peer_id, ben.identity.peer_id)))
    assert ann.read().vouched == ben.read().vouched == both
    repo.unsigned({"agent-eve.json": EVES})
    read = ann.read()
    assert "agent-eve.json" in read.records
    assert read.vouched == both
    # Nor does the next who signs vouch for it: it is left out.
    assert isinstance(ben.handle.publish({ben.file: ben.record(1_800_000_001_000)}), BranchPublished)
    assert repo.files() == ["agent-ann.json", "agent-ben.json"]
    assert ann.read().vouched == both


def test_an_unsigned_commit_may_renew_and_remove(repo: Repo) -> None:
    ann, ben = repo.member("ann"), repo.member("ben")
    repo.rules(ann, ben)
    ann.join()
    ben.join()
    repo.unsigned({ann.file: ann.record(1_800_000_002_000), ben.file: None})
    read = ben.read()
    assert list(read.records) == [ann.file]
    assert ann.identity.peer_id in (read.vouched or ())
    assert isinstance(ben.join(), BranchPublished)
    assert repo.files() == [ann.file, ben.file], "what was renewed so is kept by who signs"


def test_a_signature_by_a_key_that_is_not_listed_introduces_nobody(repo: Repo) -> None:
    ann, mallory = repo.member("ann"), repo.member("mallory")
    repo.rules(ann)
    ann.join()
    assert isinstance(mallory.join(), BranchPublished), "it may push"
    assert ann.read().vouched == (ann.identity.peer_id,)
    assert mallory.read().vouched == (ann.identity.peer_id,)


def test_a_record_in_anothers_name_under_a_believed_file_name_is_not_believed(repo: Repo) -> None:
    ann, ben = repo.member("ann"), repo.member("ben")
    repo.rules(ann, ben)
    ann.join()
    ben.join()
    as_ben = build_record(EVE, agent_id="ben", multiaddrs=(), capabilities=(), wall_ms=1_900_000_000_000, ttl_ms=900_000)
    repo.unsigned({ben.file: as_ben, "agent-eve.json": EVES.replace(EVE.peer_id.encode(), ann.identity.peer_id.encode())})
    assert EVE.peer_id not in (ann.read().vouched or ())
    ann.handle.publish({ann.file: ann.record(1_800_000_003_000)})
    assert repo.files() == [ann.file], "neither her record nor one with a wrong signature passes who signs"


def test_who_starts_the_history_anew_vouches_for_those_who_were_believed(repo: Repo) -> None:
    ann, ben = repo.member("ann", max_history=3), repo.member("ben")
    repo.rules(ann, ben)
    ben.join()
    for n in range(4):
        repo.unsigned({"agent-eve.json": EVES.replace(b'"v": 1', b'"v": 1' + b" " * n)})
    assert isinstance(ann.join(), BranchPublished)
    assert git(repo.remote, "rev-list", "--count", "coordination") == "1"
    assert repo.files() == [ann.file, ben.file]
    assert ben.read().vouched == tuple(sorted((ann.identity.peer_id, ben.identity.peer_id)))


def test_a_key_that_is_taken_off_the_list_vouches_no_more(repo: Repo) -> None:
    ann, ben = repo.member("ann"), repo.member("ben")
    repo.rules(ann, ben)
    ann.join()
    ben.join()
    assert len(ann.read().vouched or ()) == 2
    repo.rules(ann)
    assert ann.read().vouched == (ann.identity.peer_id,), "the newest commit of who still may sign"


def test_who_cannot_sign_is_told_and_asked_nothing(repo: Repo) -> None:
    ann = repo.member("ann")
    repo.rules(ann)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(ann.key)], check=True)
    failed = ann.join()
    assert isinstance(failed, BranchPublishFailed)
    assert "can't be signed" in failed.reason
    assert "user.signingKey" in failed.reason
    git(ann.clone, "config", "--unset", "user.signingKey")
    assert isinstance(ann.join(), BranchPublishFailed)
    # To leave needs no signature: nobody is let in by it.
    repo.rules(ann, text="")
    assert ann.read().rules.signed == "off"
    assert isinstance(ann.join(), BranchPublished)
    repo.rules(ann)
    assert ann.read().rules.signed == "require"
    assert isinstance(ann.handle.publish({ann.file: None}, final=True), BranchPublished)
    assert repo.files() == []


def test_the_list_must_be_on_the_default_branch(repo: Repo) -> None:
    ann = repo.member("ann")
    repo.rules(ann, text='signed_commits = "require"\nallowed_signers = "elsewhere"\n')
    read = ann.read()
    assert read.rules.closed
    assert "elsewhere" in read.rules.trouble
    repo.rules(ann)
    assert not ann.read().rules.closed
    # From now on what was understood stays in force.
    repo.rules(ann, text="allowed_peers = [")
    read = ann.read()
    assert (read.rules.signed, read.rules.closed) == ("require", False)
    assert "coordination.toml" in read.rules.trouble


def test_rules_are_read_though_nobody_fetched_them_(repo: Repo) -> None:
    ann = repo.member("ann")
    repo.rules(ann)
    assert ann.read().rules.signed == "require"
    assert git(ann.clone, "rev-list", "--all", "--", ".sudocode") == "", "not in the user's clone"
    assert ann.read().rules.commit == git(repo.remote, "rev-parse", "main")
    git(ann.clone, "fetch", "-q")
    shutil.rmtree(ann.clone / ".git" / "state")
    again = repo.member("second")
    assert again.read().rules.signed == "require"
    assert not (again.clone / ".git" / "state" / "default.git").exists(), "the clone has the commit itself"
