"""What people are told of the door: findings of the daemon, what is published, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.conformance.git_bench import git, make_remote
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.adapters.git_rules import MAX_RULES_BYTES, CommittedRules
from sudocode_coordination.adapters.git_signed import signing_options
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.api.requests import GetFindings, GetPublished, GetStatus, SetWork
from sudocode_coordination.cli.published import _blocks
from sudocode_coordination.config import CONFIG_FILE
from sudocode_coordination.core.admission import Rules
from sudocode_coordination.core.checkup import own_admission
from sudocode_coordination.core.io import BranchRead, PeerRefused, ReadTable, TableRead, TableReadFailed
from sudocode_coordination.core.published import published
from sudocode_coordination.core.strict_table import Entry, encode_entry, path_of
from sudocode_coordination.model import Resource


def told(bench: NodeBench, name: str) -> list[Any]:
    return [finding for finding in bench.asks(GetFindings()) if finding.name == name]


def reads(bench: NodeBench, rules: Rules, vouched: tuple[str, ...] | None = None) -> None:
    bench.gives(BranchRead(commit="d" * 40, records=dict(bench.branch), rules=rules, vouched=vouched))


def test_who_was_refused_is_told_until_it_is_let_in() -> None:
    bench = NodeBench()
    assert "everyone on the branch; this peer: " + bench.me in told(bench, "admission")[0].message
    bench.gives(PeerRefused(peer=ANN.peer_id, address="/ip4/192.0.2.7/tcp/1"))
    assert "was refused once" in told(bench, "refused")[0].message
    bench.passes(5_000)
    bench.gives(PeerRefused(peer=ANN.peer_id, address="/ip4/192.0.2.7/tcp/2"))
    [refused] = told(bench, "refused")
    assert refused.ok
    assert "/ip4/192.0.2.7/tcp/2 was refused 2 times since" in refused.message
    bench.reads(ann=ANN)
    assert told(bench, "refused") == []


def test_the_rules_and_what_they_refuse_are_told() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN, ben=BEN)
    reads(bench, Rules(allowed=(bench.me, BEN.peer_id), denied=(BEN.peer_id,), commit="e" * 40))
    bench.gives(PeerRefused(peer=ANN.peer_id, address=""))
    bench.gives(PeerRefused(peer=BEN.peer_id, address=""))
    assert "2 listed peers but 1 (default branch at eeeeeeeeee)" in told(bench, "admission")[0].message
    latest, earlier = told(bench, "refused")
    assert "ben (" in latest.message
    assert "denied_peers" in latest.message
    assert "allowed_peers" in earlier.message
    assert own_admission(bench.node) == []
    reads(bench, Rules(signed="require"), (ANN.peer_id,))
    assert "signed as .sudocode/allowed_signers" in told(bench, "admission")[0].message


@pytest.mark.parametrize(
    ("rules", "vouched", "words"),
    [
        (Rules(allowed=()), None, "not on the list allowed_peers. Its peer id"),
        (Rules(signed="require"), (), "no commit with a valid signature"),
        (Rules(closed=True, trouble="no TOML"), None, "no TOML"),
        (Rules(trouble="no TOML"), None, "no TOML"),
    ],
)
def test_who_may_not_join_itself_is_told(rules: Rules, vouched: tuple[str, ...] | None, words: str) -> None:
    bench = NodeBench()
    reads(bench, rules, vouched)
    [problem] = bench.asks(GetStatus()).problems
    assert words in problem


# --- what is published ----------------------------------------------------------------------------------------------------------


def entry(owner: str, n: int) -> Entry:
    claim = f"{owner}.1.{n}"
    resources = (Resource("file", f"src/{n}.py"),)
    return Entry(id=claim, agent="a", resources=resources, mode="exclusive", priority=0, ttl_ms=60_000, token=n)


def test_own_leases_of_the_table_are_told_after_a_read_of_it() -> None:
    bench = NodeBench()
    bench.asks(SetWork(status="here"))
    asked = bench.puts(GetPublished())
    assert bench.answer(asked) is None
    assert bench.of(ReadTable)
    mine, other = entry(bench.me, 1), entry(ANN.peer_id, 2)
    changed: dict[str, bytes | None] = {path_of(one.id): encode_entry(one) for one in (mine, other)}
    bench.gives(TableRead(commit="f" * 40, changed=changed, ref="refs/coordination/leases"))
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.value.table == {path_of(mine.id): encode_entry(mine).decode()}
    assert answer.value.table_ref == "refs/coordination/leases"
    assert answer.value.peers["activeWork"]["me"]["status"] == "here"
    assert answer.value == published(bench.node, bench.node._config)


def test_a_table_that_cannot_be_read_is_no_answer() -> None:
    bench = NodeBench()
    asked = bench.puts(GetPublished())
    bench.gives(TableReadFailed(reason="no route"))
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.error is not None
    assert "no route" in answer.error.message


def test_what_is_shown_is_harmless_to_a_terminal() -> None:
    bench = NodeBench()
    bench.asks(SetWork(status="here"))
    answer = published(bench.node, bench.node._config)
    hostile = "\x1b[2J"
    document = {"branch": {"records": {f"agent-{hostile}.json": hostile}, "commitText": hostile}}
    shown = "".join(str(getattr(block, "text", block)) for block in _blocks(answer, document))
    assert "\x1b" not in shown
    assert "not in use" in shown
    assert "here" in shown


# --- rules that can't be read ---------------------------------------------------------------------------------------------------


def test_rules_are_plain_files_of_a_reasonable_size(tmp_path: Path) -> None:
    remote = make_remote(tmp_path)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(remote), str(clone))
    runner = GitRunner(clone / ".git", clone, "origin", 20.0)
    rules = CommittedRules(runner, clone / ".git", None, "origin", Rules(denied=(ANN.peer_id,)))

    def commit(make: Any) -> str:
        (clone / ".sudocode").mkdir(exist_ok=True)
        path = clone / CONFIG_FILE
        if path.is_symlink() or path.exists():
            path.unlink()
        make(path)
        git(clone, "add", "-A", ".")
        git(clone, "commit", "-q", "--allow-empty", "-m", "x")
        return git(clone, "rev-parse", "HEAD")

    assert trio.run(rules.at, git(clone, "rev-parse", "HEAD")).denied == (ANN.peer_id,)
    assert trio.run(rules.at, None).commit is None
    for make, why in (
        (lambda path: path.symlink_to("/etc/passwd"), "no plain file"),
        (lambda path: path.write_bytes(b"#" * (MAX_RULES_BYTES + 1)), "more than"),
    ):
        with pytest.raises(GitFailedError, match=why):
            trio.run(rules.at, commit(make))
    with pytest.raises(GitFailedError, match="not in this clone"):
        trio.run(rules.at, "1" * 40)
    with pytest.raises(GitFailedError, match="no place"):
        rules.signers_file()


def test_other_signatures_than_those_of_ssh_are_made_and_believed_by_nobody() -> None:
    options = signing_options()
    assert "gpg.format=ssh" in options
    assert sum(option.endswith("/false") for option in options) == 3
