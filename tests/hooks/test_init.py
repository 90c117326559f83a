"""`coord init`: what it finds, shows, writes, and takes back."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.e2e.clones import COORD

from sudocode_coordination.cli.setup_findings import setup_findings
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks.servers import registrations
from sudocode_coordination.hooks.settings import integrations

Coord = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "mein repo ü"
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    return repo


@pytest.fixture
def coord(repo: Path) -> Coord:
    def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        # No agent of this machine is found on PATH.
        done = subprocess.run(
            [COORD, *arguments],
            cwd=repo,
            env={**os.environ, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done
        return done

    return run


def tree(repo: Path) -> dict[str, str]:
    """All files, but those of git that change by themselves."""
    return {
        str(path.relative_to(repo)): path.read_text("utf-8")
        for path in repo.rglob("*")
        if path.is_file() and path.relative_to(repo).parts[:2] not in ((".git", "objects"), (".git", "index"))
    }


def test_nothing_is_written_unless_it_is_agreed(repo: Path, coord: Coord) -> None:
    before = tree(repo)
    for arguments in (("init",), ("init", "--dry-run", "--yes"), ("init", "--json")):
        said = coord(*arguments).stdout
        assert "pre-commit" in said
        assert "coordination.toml" in said
    assert tree(repo) == before


def test_what_is_found_is_set_up_and_twice_is_once(repo: Path, coord: Coord) -> None:
    (repo / ".claude").mkdir()
    (repo / ".cursor").mkdir()
    document = json.loads(coord("init", "--yes", "--json").stdout)
    assert {change["name"] for change in document["changes"]} == {"config", "guards", "claude", "cursor"}
    assert document["written"] is True
    first = tree(repo)
    claude = json.loads(first[".claude/settings.local.json"])["hooks"]
    assert set(claude) == {"PreToolUse", "SessionStart", "UserPromptSubmit", "SubagentStop", "SessionEnd"}
    command = claude["PreToolUse"][0]["hooks"][0]["command"]
    assert Path(shlex.split(command)[0]).is_absolute()
    assert json.loads(first[".cursor/hooks.json"])["version"] == 1
    assert "nothing to do" in coord("init", "--yes").stdout
    assert tree(repo) == first
    # They are this machine's: git overlooks them.
    status = subprocess.run(["git", "status", "--short"], cwd=repo, capture_output=True, text=True, check=True).stdout
    assert ".claude" not in status
    assert ".cursor" not in status


def test_all_of_it_is_taken_back(repo: Path, coord: Coord) -> None:
    own = {
        "permissions": {"allow": ["Bash(ls:*)"]},
        "hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "mine"}]}]},
    }
    (repo / ".claude").mkdir()
    (repo / ".claude" / "settings.local.json").write_text(json.dumps(own, indent=2) + "\n")
    (repo / "AGENTS.md").write_text("# Ours\n\nBe kind.\n")
    (repo / ".gemini").mkdir()
    hook = repo / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    before = tree(repo)
    coord("init", "--yes")
    text = (repo / "AGENTS.md").read_text()
    assert text.startswith("# Ours\n\nBe kind.\n")
    assert "coord lease PATH" in text
    merged = json.loads((repo / ".claude" / "settings.local.json").read_text())
    assert merged["permissions"] == own["permissions"]
    assert [len(merged["hooks"]["PreToolUse"]), merged["hooks"]["PreToolUse"][0]] == [2, own["hooks"]["PreToolUse"][0]]  # type: ignore[index]
    coord("init", "--remove", "--yes")
    assert tree(repo) == before
    assert "nothing of ours is there" in coord("init", "--remove", "--yes").stdout


def test_a_file_that_git_tracks_is_told_of_and_is_as_it_was_afterwards(repo: Path, coord: Coord) -> None:
    file = repo / ".mcp.json"
    file.write_text('{\n\t"mcpServers": {"x": {"command": "y", "args": ["a", "b"]}}\n}')
    subprocess.run(["git", "-C", str(repo), "add", ".mcp.json"], check=True)
    before = tree(repo)
    assert "tracked by git: .mcp.json" in coord("init", "--yes", "--only", "claude").stdout
    assert json.loads(file.read_text())["mcpServers"]["coord"]
    assert "tracked by git" not in coord("init", "--remove", "--yes").stdout
    assert tree(repo) == before


def test_these_alone(repo: Path, coord: Coord) -> None:
    coord("init", "--yes", "--only", "codex,opencode,gemini")
    assert not (repo / ".git" / "hooks" / "pre-commit").exists()
    assert (repo / ".codex" / "hooks.json").exists()
    assert (repo / ".opencode" / "plugins" / "coordination.js").exists()
    coord("init", "--remove", "--yes", "--only", "codex")
    assert not (repo / ".codex").exists()
    assert (repo / ".gemini" / "settings.json").exists()
    assert "nothing is called claud" in coord("init", "--only", "claud", expect=2).stderr


@pytest.mark.parametrize("text", ["{ // comments\n}", "[]", '{"hooks": []}', '{"hooks": {"PreToolUse": {}}}'])
def test_a_file_that_cannot_be_understood_is_left_and_told(repo: Path, coord: Coord, text: str) -> None:
    (repo / ".claude").mkdir()
    file = repo / ".claude" / "settings.local.json"
    file.write_text(text)
    done = coord("init", "--yes", expect=1)
    assert "settings.local.json" in done.stdout
    assert "by hand" in done.stdout
    assert file.read_text() == text
    assert (repo / ".git" / "hooks" / "pre-commit").exists(), "the rest is done"


def test_every_command_that_is_written_can_be_run(repo: Path, coord: Coord) -> None:
    coord("init", "--yes", "--only", "claude,codex,gemini,cursor")
    commands: set[str] = set()

    def gather(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("command"), str):
                commands.add(value["command"])
            for one in value.values():
                gather(one)
        elif isinstance(value, list):
            for one in value:
                gather(one)

    for one in integrations(repo, COORD):
        if one.path.suffix == ".json" and one.path.exists():
            gather(json.loads(one.path.read_text())["hooks"])
    assert len(commands) >= 12
    for command in sorted(commands):
        done = subprocess.run(["sh", "-c", command], input="{}", cwd=repo, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.skipif(subprocess.run(["which", "node"], capture_output=True, check=False).returncode != 0, reason="needs node")
def test_the_plugin_for_opencode_is_valid_javascript_and_allows_where_no_daemon_runs(repo: Path, coord: Coord) -> None:
    coord("init", "--yes", "--only", "opencode")
    plugin = repo / ".opencode" / "plugins" / "coordination.js"
    script = f"""
    import {{ Coordination }} from {json.dumps(plugin.as_uri())}
    const hooks = await Coordination({{ directory: {json.dumps(str(repo))} }})
    await hooks["tool.execute.before"]({{ tool: "edit", sessionID: "s" }}, {{ args: {{ filePath: "a.js" }} }})
    await hooks.event({{ event: {{ type: "session.created", properties: {{ info: {{ id: "s" }} }} }} }})
    console.log("allowed")
    """
    check = repo / "check.mjs"
    check.write_text(script)
    # As OpenCode loads it: a module.
    (plugin.parent / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", str(check)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "allowed\n"), done.stderr


@pytest.mark.skipif(subprocess.run(["which", "node"], capture_output=True, check=False).returncode != 0, reason="needs node")
def test_the_plugin_for_opencode_denies_in_the_agent_s_words_and_lets_pass_what_it_can_not_read(repo: Path) -> None:
    program = repo / "coord"
    one = next(one for one in integrations(repo, str(program)) if one.name == "opencode")
    (repo / "plugin.mjs").write_text(one.wanted(None))
    (repo / "check.mjs").write_text("""
    import { Coordination } from "./plugin.mjs"
    const hooks = await Coordination({ directory: "." })
    const edit = hooks["tool.execute.before"]({ tool: "edit", sessionID: "s" }, { args: { filePath: "a.js" } })
    console.log(await edit.then(() => "allowed", (error) => error.message))
    """)
    denied = {"hookSpecificOutput": {"permissionDecision": "deny", "permissionDecisionReason": "bob has it"}}
    for printed, outcome in ((json.dumps(denied), "bob has it"), ("{half", "allowed"), ("", "allowed"), ("null", "allowed")):
        program.write_text(f"#!/bin/sh\nprintf '%s' {shlex.quote(printed)}\n")
        program.chmod(0o755)
        done = subprocess.run(["node", "check.mjs"], cwd=repo, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{outcome}\n"), done.stderr


def test_what_is_wrong_with_the_remote_is_told(repo: Path, coord: Coord) -> None:
    config = repo / ".sudocode" / "coordination.toml"
    config.parent.mkdir()
    subprocess.run(["git", "-C", str(repo), "remote", "add", "upstream", "x"], check=True)
    assert "no remote origin, there is upstream: set git_remote" in coord("init").stdout
    config.write_text('git_remote = "upstream"\n')
    assert "no remote" not in coord("init").stdout
    config.write_text("nonsense = 1\n")
    assert "nonsense" in coord("init").stdout


def test_in_a_bare_repository_there_is_nothing_to_set_up(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path)], check=True)
    done = subprocess.run([COORD, "init"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bare repository" in done.stderr


def test_the_mcp_server_is_registered_and_its_command_runs(repo: Path, coord: Coord) -> None:
    document = json.loads(coord("init", "--yes", "--json", "--only", "claude,codex,gemini,cursor,opencode").stdout)
    files = {Path(change["path"]).relative_to(repo).as_posix() for change in document["changes"] if "MCP" in change["what"]}
    assert files == {".mcp.json", ".codex/config.toml", ".gemini/settings.json", ".cursor/mcp.json", "opencode.json"}
    commands = [
        [entry["command"], *entry["args"]]
        for entry in (
            json.loads((repo / ".mcp.json").read_text())["mcpServers"]["coord"],
            json.loads((repo / ".gemini" / "settings.json").read_text())["mcpServers"]["coord"],
            json.loads((repo / ".cursor" / "mcp.json").read_text().replace("${workspaceFolder}", str(repo)))["mcpServers"]["coord"],
            tomllib.loads((repo / ".codex" / "config.toml").read_text())["mcp_servers"]["coord"],
        )
    ]
    commands.append(json.loads((repo / "opencode.json").read_text())["mcp"]["coord"]["command"])
    for command in {tuple(command) for command in commands}:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=repo, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
    assert "hooks" in json.loads((repo / ".gemini" / "settings.json").read_text()), "both are in one file"
    coord("init", "--remove", "--yes")
    assert sorted(path.name for path in repo.iterdir()) == [".git"]


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("claude", '{"mcpServers": {"coord": {"command": "/usr/bin/other", "args": ["serve"]}}}'),
        ("claude", '{"mcpServers": {"other": {"command": "coord", "args": ["mcp"]}}, "x": [1, 2]}'),
        ("claude", "{}"),
        ("cursor", '{"mcpServers": {}}'),
        ("gemini", '{"theme": "ü", "hooks": {"BeforeTool": []}}'),
        ("opencode", '{"mcp": {"coord": {"type": "remote", "url": "https://example.org"}}}'),
        ("codex", "# mine\nmodel = 'x'\n\n[mcp_servers.other]\ncommand = 'y'\n"),
        ("codex", "model = 'x'"),
        ("claude", '{"half": "\\ud800"}'),
        ("codex", "[mcp_servers.coord]\ncommand = 'mine'\n"),
        ("codex", ""),
    ],
)
def test_registering_twice_is_once_and_what_is_the_users_stays(tmp_path: Path, agent: str, text: str) -> None:
    one = next(each for each in registrations(tmp_path, "/opt/a b/coord") if each.name == agent)
    first = one.wanted(text)
    assert one.wanted(first) == first
    first.encode()
    moved = next(each for each in registrations(tmp_path, "/elsewhere/coord") if each.name == agent)
    assert first == text or "/elsewhere/coord" in moved.wanted(first)
    assert first == text or "/opt/a b/coord" not in moved.wanted(first), "one of ours, of an installation that is gone"
    rest = one.without(first)
    load = tomllib.loads if agent == "codex" else json.loads
    empty: dict[str, Any] = {"mcpServers": {}} if agent == "cursor" else {}
    assert {**empty, **load(rest or ("" if agent == "codex" else "{}"))} == load(text or ("" if agent == "codex" else "{}"))
    if agent == "codex":
        assert first.startswith(text), "its comments stay"


_ODD = [
    ("claude", "[" * 100_000),
    ("codex", "a = " + "[" * 100_000),
    ("codex", "mcp_servers = 3"),
    ("codex", "mcp_servers = { other = { command = 'x' } }"),
    ("codex", "# >>> coord mcp >>>\n[mcp_servers.coord]\ncommand = 'coord'\n"),
]


@pytest.mark.parametrize(
    ("agent", "text"), [("claude", "[1]"), ("claude", "{,}"), ("claude", '{"mcpServers": []}'), ("codex", "a = ["), *_ODD]
)
def test_a_file_that_its_agent_could_not_read_is_told_of(tmp_path: Path, agent: str, text: str) -> None:
    one = next(each for each in registrations(tmp_path, "/opt/coord") if each.name == agent)
    with pytest.raises(CoordinationError) as caught:
        one.wanted(text)
    assert "by hand" in caught.value.hint or "first" in caught.value.hint


def test_doctor_says_what_is_set_up_what_is_missing_and_what_can_not_run(repo: Path, coord: Coord) -> None:
    def findings() -> list[dict[str, Any]]:
        return [msgspec.to_builtins(one) for one in setup_findings(repo)]

    (repo / ".claude").mkdir()
    (repo / ".codex").mkdir()
    (missing,) = [one for one in findings() if "not set up" in one["message"]]
    assert all(
        name in missing["message"] for name in ("guards (pre-commit)", "claude (settings.local.json)", "codex (config.toml)")
    )
    assert "coord init" in missing["hint"]
    coord("init", "--yes", "--only", "guards,claude,codex,gemini,cursor,opencode")
    (fine,) = [one for one in findings() if "in place" in one["message"]]
    assert (fine["ok"], fine["hint"]) == (True, "")
    assert all(name in fine["message"] for name in ("guards (pre-push)", "claude (.mcp.json)", "opencode (coordination.js)"))
    for path in (".claude/settings.local.json", ".codex/config.toml", ".opencode/plugins/coordination.js", ".git/hooks/pre-commit"):
        before = (repo / path).read_text()
        assert COORD in before, path
        (repo / path).write_text(before.replace(COORD, "/gone/bin/coord"))
        broken = [one for one in findings() if not one["ok"]]
        assert [one["message"] for one in broken] == ["hooks run /gone/bin/coord, which is not there"], path
        (repo / path).write_text(before)
    assert all(one["ok"] for one in findings())
    told = json.loads(subprocess.run([COORD, "doctor", "--json"], cwd=repo, capture_output=True, text=True, check=False).stdout)
    assert fine in told["findings"]


@pytest.mark.parametrize(
    "content", [b"Stra\xdfe\n", "Straße\n".encode("utf-16"), b"one\r\ntwo\r\n", b"one\r\ntwo\n", b"no newline"], ids=repr
)
def test_no_byte_of_a_file_of_the_users_is_lost(repo: Path, coord: Coord, content: bytes) -> None:
    """Whatever its encoding and its line ends."""
    agents, exclude = repo / "AGENTS.md", repo / ".git" / "info" / "exclude"
    agents.write_bytes(content)
    exclude.write_bytes(b"/b\xfcro\n")
    text = not set(content) & {0xDF, 0xFF}
    done = coord("init", "--yes", expect=0 if text else 1)
    assert agents.read_bytes().startswith(content)
    assert exclude.read_bytes().startswith(b"/b\xfcro\n")
    if text:
        assert b"coord: begin" in agents.read_bytes()
    else:
        assert "AGENTS.md: it is no UTF-8 text" in done.stdout
        assert agents.read_bytes() == content
    if content == b"one\r\ntwo\r\n":
        assert agents.read_bytes().count(b"\n") == agents.read_bytes().count(b"\r\n")
    coord("init", "--remove", "--yes")
    assert agents.read_bytes().rstrip(b"\n") == content.rstrip(b"\n")
    assert exclude.read_bytes() == b"/b\xfcro\n"


@pytest.mark.parametrize(("agent", "text"), [("opencode", "mine()\n"), ("agents.md", "a\n<!-- coord: begin -->\nours\nmine\n")])
def test_what_may_be_the_users_is_not_written_over_and_not_taken_away(tmp_path: Path, agent: str, text: str) -> None:
    one = next(each for each in integrations(tmp_path, "/opt/coord") if each.name == agent)
    with pytest.raises(CoordinationError) as caught:
        one.wanted(text)
    assert caught.value.hint
    if agent == "opencode":
        assert one.without(text) == text
    else:
        with pytest.raises(CoordinationError):
            one.without(text)


def test_nothing_is_written_through_a_link_that_leads_out(repo: Path, coord: Coord) -> None:
    outside = repo.parent / "profile"
    outside.write_text("mine\n")
    (repo / "AGENTS.md").symlink_to(outside)
    assert "leads out of the repository" in coord("init", "--yes", "--only", "agents.md", expect=1).stdout
    assert outside.read_text() == "mine\n"
    (repo / "AGENTS.md").unlink()
    (repo / "CLAUDE.md").write_text("mine\n")
    (repo / "AGENTS.md").symlink_to("CLAUDE.md")
    coord("init", "--yes", "--only", "agents.md")
    assert "coord: begin" in (repo / "CLAUDE.md").read_text()
    assert (repo / "AGENTS.md").is_symlink()


def test_what_work_trees_share_stays_until_the_last_one_is_taken_back(repo: Path, coord: Coord) -> None:
    other = repo.parent / "neben\u00e4n"
    git = ["git", "-C", str(repo)]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", str(other)], check=True)
    hook, exclude = repo / ".git" / "hooks" / "pre-push", repo / ".git" / "info" / "exclude"
    before = exclude.read_text()

    def there(*arguments: str) -> str:
        done = subprocess.run([COORD, *arguments], cwd=other, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        return done.stdout

    coord("init", "--yes", "--only", "claude,guards")
    there("init", "--yes", "--only", "claude")
    said = coord("init", "--remove", "--yes").stdout
    assert f"guards: kept, {other} is set up with it too" in said
    assert not (repo / ".claude").exists()
    assert hook.exists()
    assert "/.claude/settings.local.json" in exclude.read_text()
    again = json.loads(coord("init", "--remove", "--yes", "--json").stdout)
    assert [(one["name"], one["usedIn"]) for one in again["kept"]] == [("guards", [str(other)])] * 2
    assert json.loads(there("init", "--remove", "--yes", "--json"))["kept"] == []
    assert not hook.exists()
    assert exclude.read_text() == before
    # Who names it wants it gone.
    coord("init", "--yes", "--only", "claude,guards")
    there("init", "--remove", "--yes", "--only", "guards")
    assert not hook.exists()
