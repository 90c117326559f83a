"""Two daemons: an edit on both sides that nobody has committed is foretold to both, and it is over when it is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.worktree_bench import git
from tests.e2e.swarm import Member, soon, swarm

ON = ("--set", "enable_file_diffs=true", "--set", "file_diff_interval_ms=200")
TEXT = "".join(f"line {number}\n" for number in range(1, 21))
SEEN_S = 60.0
"""For a look, the way to the other, and a merge: a second or two, on a busy machine more."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Member]]:
    with swarm("ada", "bob", settings=ON) as members:
        yield members


def test_an_edit_on_both_sides_is_foretold_on_both_and_over_when_it_is_gone(pair: list[Member]) -> None:
    ada, bob = pair
    for member in pair:
        (member.clone.folder / "src" / "auth.py").write_text(f"def login(): ...  # {member.name}\n")
    for member, other in ((ada, bob), (bob, ada)):
        soon(f"{member.name} knows", lambda member=member: bool(member.me.conflicts().conflicts), SEEN_S)  # type: ignore[misc]
        (found,) = member.me.conflicts().conflicts
        assert (found.path, found.agents, found.their_agents) == ("src/auth.py", (member.name,), (other.name,))
        assert [(lines.first, lines.last) for lines in (*found.lines, *found.their_lines)] == [(1, 1), (1, 1)]
        checked = member.clone.coord("check", "src/auth.py", expect=3).stdout
        assert f"would not merge with the changes of {other.name} (line 1 here, line 1 there)" in checked
        told = member.clone.coord("conflicts", "--json").stdout
        assert '"path":"src/auth.py"' in told
        assert member.events("conflicts-detected")
    git(bob.clone.folder, "checkout", "-q", "--", "src/auth.py")
    for member in pair:
        soon(f"it is over for {member.name}", lambda member=member: not member.me.conflicts().conflicts, SEEN_S)  # type: ignore[misc]
        assert member.events("conflicts-cleared")
        member.clone.coord("conflicts")
    git(ada.clone.folder, "checkout", "-q", "--", "src/auth.py")


def test_what_is_shared_can_be_looked_at_and_goes_with_the_daemon(pair: list[Member]) -> None:
    ada, bob = pair
    (ada.clone.folder / ".env").write_text("TOKEN=very-secret-words\n")
    (ada.clone.folder / "notes.txt").write_text("shared words\n")
    soon("bob knows of it", lambda: shared_by(ada, bob) == ["notes.txt"], SEEN_S)
    (work,) = [work for work in bob.me.conflicts().works if not work.mine]
    assert work.left_out == 1
    published = ada.clone.coord("doctor", "--published").stdout
    assert "shared words" in published
    assert "very-secret-words" not in published
    assert ".env" not in published
    ada.clone.coord("stop")
    soon("it went with the daemon", lambda: shared_by(ada, bob) == [], SEEN_S)
    ada.start("--set", "enable_file_diffs=false")
    assert not ada.me.conflicts().enabled
    assert shared_by(ada, bob) == []


def shared_by(member: Member, seen_by: Member) -> list[str]:
    """Files that somebody sees changed in another's clone."""
    works = [work for work in seen_by.me.conflicts().works if member.name in work.agents and not work.mine]
    return [file.path for work in works for file in work.files]
