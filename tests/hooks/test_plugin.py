"""The plugin for Claude Code: what is in it fits the code, and its hooks run as Claude Code runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scripts import make_plugin
from tests.e2e.clones import COORD

from sudocode_coordination.hooks.jsontext import written
from sudocode_coordination.mcp.tools import Tools

PLUGIN = make_plugin.ROOT / make_plugin.PLUGIN
HOOKS = json.loads((PLUGIN / "hooks" / "hooks.json").read_text("utf-8"))["hooks"]
SILENT = {name: value for name, value in os.environ.items() if name not in ("COORD_AGENT", "COORD_PROGRAM")}


def run(command: str, project: Path, *, path: str, given: str = "{}") -> subprocess.CompletedProcess[str]:
    """In a shell, with the variables that Claude Code sets."""
    environment = {
        **SILENT,
        "CLAUDE_PLUGIN_ROOT": str(PLUGIN),
        "CLAUDE_PROJECT_DIR": str(project),
        "PATH": path,
        "HOME": str(project),
    }
    return subprocess.run(
        ["sh", "-c", command], input=given, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def command_of(event: str) -> str:
    return str(HOOKS[event][0]["hooks"][0]["command"])


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A PATH with no coord on it."""
    for name in ("sh", "grep"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return str(tmp_path / "bin")


def test_it_is_as_the_code_has_it() -> None:
    stale = [
        str(path) for path, value in make_plugin.parts().items() if (make_plugin.ROOT / path).read_text("utf-8") != written(value)
    ]
    assert stale == [], "run: uv run scripts/make_plugin.py"


@pytest.mark.parametrize("event", HOOKS)
def test_without_coord_nothing_is_blocked_and_a_session_s_start_says_so(tmp_path: Path, bare: str, event: str) -> None:
    done = run(command_of(event), tmp_path, path=bare)
    assert (done.returncode, done.stderr) == (0, "")
    if event == "SessionStart":
        assert "put it on PATH" in json.loads(done.stdout)["systemMessage"]
    else:
        assert done.stdout == ""


@pytest.mark.parametrize("event", HOOKS)
def test_each_hook_runs_and_allows_where_no_daemon_ever_ran(tmp_path: Path, event: str) -> None:
    done = run(command_of(event), tmp_path, path=f"{Path(COORD).parent}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (0, "")


def test_hooks_of_coord_init_are_not_doubled(tmp_path: Path, bare: str) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.local.json").write_text('{"command": "/opt/coord hook pre-tool --for claude"}')
    assert run(command_of("SessionStart"), tmp_path, path=bare).stdout == ""


def test_the_mcp_server_starts_or_says_what_is_missing(tmp_path: Path, bare: str) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    server = json.loads((PLUGIN / ".mcp.json").read_text("utf-8"))["mcpServers"]["coord"]
    command = f'"{server["command"]}" {" ".join(server["args"])}'
    assert run(command, tmp_path, path=f"{Path(COORD).parent}:/usr/bin:/bin", given="").returncode == 0
    missing = run(command, tmp_path, path=bare, given="")
    assert missing.returncode == 127
    assert "COORD_PROGRAM" in missing.stderr


def test_a_program_that_comes_with_the_repository_is_not_run(tmp_path: Path, bare: str) -> None:
    project = tmp_path / "project"
    program = project / ".venv" / "bin" / "coord"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho its own\n")
    program.chmod(0o755)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (tmp_path / "bin" / "git").symlink_to(str(shutil.which("git")))
    assert run(command_of("UserPromptSubmit"), project, path=bare).stdout == "its own\n"
    subprocess.run(["git", "-C", str(project), "add", "--force", ".venv"], check=True)
    assert run(command_of("UserPromptSubmit"), project, path=bare).stdout == ""


def test_the_skill_names_tools_that_there_are() -> None:
    text = (PLUGIN / "skills" / "coordination" / "SKILL.md").read_text("utf-8")
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert fields["name"] == "coordination"
    assert 20 < len(fields["description"]) <= 1_024
    named = set(re.findall(r"`([a-z_]+)`", body)) - {"coord"}
    assert named >= {"status", "lease", "release", "wait_for_lease"}
    assert {name for name in named if not callable(getattr(Tools, name, None))} == set()
