"""What the tests of the git adapters share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.git_bench import Loop, running_loop

from sudocode_coordination.adapters import git_table, gitpush
from sudocode_coordination.adapters.gitpush import Pushed


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A trio thread for what a test drives."""
    with running_loop() as running:
        yield running


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commits of the lease table that went by `git push`."""
    seen: list[str] = []
    push = gitpush.push

    async def noted(git: object, remote: str, commit: str, *rest: object, **more: object) -> Pushed:
        seen.append(commit)
        return await push(git, remote, commit, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(git_table, "push", noted)
    return seen
