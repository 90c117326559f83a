"""The branch is deleted, or its history replaced, while daemons run: they stay together, and their records come back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.clones import connected, repository, wait_for

OFTEN = ("--heartbeat", "500ms", "--discovery-interval", "1s")
AGAIN_S = 60.0
"""Pushes keep fifteen seconds apart, and looks at the branch come every second."""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_deleted_branch_and_a_rewritten_one_come_back_whole() -> None:
    with repository("ann", "bob") as (ann, bob):
        remote = str(ann.folder.parent / "remote.git")

        def records() -> set[str]:
            refs = ann.git("--git-dir", remote, "for-each-ref", "refs/heads/coordination").strip()
            listed = ann.git("--git-dir", remote, "ls-tree", "-r", "--name-only", "coordination").split() if refs else []
            return {Path(name).name for name in listed}

        both = {"agent-ann.json", "agent-bob.json"}
        ann.start(*OFTEN)
        bob.start(*OFTEN)
        wait_for("both are on the branch", lambda: records() == both, AGAIN_S)
        wait_for("they meet", lambda: connected(ann, bob), AGAIN_S)
        ann.coord("lease", "src/auth.py")

        ann.git("--git-dir", remote, "update-ref", "-d", "refs/heads/coordination")
        wait_for("it is recreated, with both records", lambda: records() == both, AGAIN_S)
        assert connected(ann, bob), "the swarm is not torn"
        assert bob.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "ann"

        # History is replaced by one that has nothing in common with it: somebody else's files, and no record of theirs.
        tree = ann.git("--git-dir", remote, "rev-parse", "main^{tree}").strip()
        other = ann.git("--git-dir", remote, "commit-tree", tree, "-m", "rewritten").strip()
        ann.git("--git-dir", remote, "update-ref", "refs/heads/coordination", other)
        wait_for("the records are back on top of it", lambda: records() >= both, AGAIN_S)
        assert other in ann.git("--git-dir", remote, "rev-list", "coordination").split(), "what others put there stays"
        assert connected(ann, bob)
        for clone in (ann, bob):
            status = clone.json("status")
            assert status["remote"]["state"] == "ok"
            assert status["problems"] == []
        assert bob.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "ann"
