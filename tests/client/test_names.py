"""Names as people and programs write them, in every call that takes one: from the library and from the command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sudocode_coordination.api.requests import Request
from sudocode_coordination.cli.run import run
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.cli.session import Session
from sudocode_coordination.client.calls import Calls
from sudocode_coordination.client.speaking import Blocks
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource
from sudocode_coordination.place import find_clone


class Asked(Calls, Blocks):
    """A client that gives back what it would ask."""

    def __init__(self, folder: Path) -> None:
        self.clone = find_clone(folder)
        self.folder = str(folder)
        self.agent = None

    def call(self, request: Request[Any], *, timeout_s: float | None = None) -> Any:
        del timeout_s
        return request


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "src" / "auth").mkdir(parents=True)
    (tmp_path / "src" / "auth" / "user.py").touch()
    return tmp_path


def test_every_call_of_the_library_names_folders_as_folders(repo: Path) -> None:
    client: Any = Asked(repo / "src")
    names = ["auth", "auth/user.py", "./auth/", "auth/*.py", "new"]
    expected = ["src/auth/", "src/auth/user.py", "src/auth/", "src/auth/*.py", "src/new"]
    for call in (client.acquire_lease, client.renew_lease, client.release_lease, client.check_conflicts):
        assert [resource.path for resource in call(names).resources] == expected
    assert [resource.path for resource in client.check_conflicts(specs=names).resources] == expected
    work = client.set_work(files=names, specs=names)
    assert (list(work.files), list(work.specs)) == (expected, expected)
    assert client.acquire_lease("auth", "component").resources == (Resource("component", "auth"),)
    given = Resource("file", "src/auth")
    assert client.release_lease(given).resources == (given,), "what is a name already stays as it is"


def test_the_command_names_them_alike(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo / "src")
    session = Session(Screen(as_json=True), None)
    found = session.resources(["auth", "spec:auth", "file:auth/user.py/", "component:auth", "issue: 42 "])
    assert found == (
        Resource("file", "src/auth/"),
        Resource("spec", "src/auth/"),
        Resource("file", "src/auth/user.py"),
        Resource("component", "auth"),
        Resource("issue", "42"),
    )


BAD = [
    ("", "is no path"),
    ("  ", "is no path"),
    ("../..", "outside of this repository"),
    ("/etc/passwd", "outside of this repository"),
    ("auth/../../..", "outside of this repository"),
    ("..", "is the repository itself"),
    ("../.git/config", "git's own folder"),
]


@pytest.mark.parametrize(("path", "why"), BAD)
def test_a_path_that_is_none_of_the_repository_is_the_same_clear_error_everywhere(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], path: str, why: str
) -> None:
    client: Any = Asked(repo / "src")
    for call in (client.acquire_lease, client.renew_lease, client.release_lease, client.check_conflicts):
        for kind in ("files", "specs") if call == client.check_conflicts else (None,):
            with pytest.raises(ResourceError, match=why) as refused:
                call(**{kind: [path]}) if kind else call(path)
            assert repr(path) in refused.value.message
            assert refused.value.hint
    monkeypatch.chdir(repo / "src")
    for command in ("lease", "check", "release", "renew"):
        assert run([command, path]) == ResourceError.exit_code
        told = capfd.readouterr().err
        assert why in told
        assert "hint: " in told
    assert not (repo / ".git" / "sudocode-coordination").exists(), "nothing was asked of anybody"
