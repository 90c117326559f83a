"""Each coding agent's own JSON goes to the real command, in two clones at once: exit code, output, effect."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scripts import make_plugin
from tests.e2e.clones import COORD, Clone, connected, repository, wait_for

from sudocode_coordination.hooks import agents
from sudocode_coordination.place import find_clone

pytestmark = pytest.mark.usefixtures("warm_daemons")


@pytest.fixture(scope="module")
def swarm() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        wait_for("they meet", lambda: connected(alice, bob), 20.0)
        yield alice, bob


def hook(
    event: str, given: dict[str, Any] | str, *more: str, cwd: Path, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as an agent calls it."""
    done = subprocess.run(
        [COORD, "hook", event, *more],
        input=given if isinstance(given, str) else json.dumps(given),
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "COORD_AGENT"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, done
    return done


def claude(clone: Clone, tool: str, session: str = "11111111-aaaa-bbbb-cccc-000000000001", **tool_input: Any) -> dict[str, Any]:
    return {
        "session_id": session,
        "transcript_path": "/tmp/t.jsonl",
        "cwd": str(clone.folder),
        "permission_mode": "default",
        "hook_event_name": "PreToolUse",
        "tool_name": tool,
        "tool_input": tool_input,
        "tool_use_id": "toolu_1",
    }


def holders(clone: Clone, path: str) -> list[str]:
    return [lease["agentId"] for lease in clone.json("leases", "--all")["leases"] if ["file", path] in lease["resources"]]


def deny_reason(done: subprocess.CompletedProcess[str]) -> str:
    """As Claude Code and Codex read it: these three fields and no other."""
    told = json.loads(done.stdout)["hookSpecificOutput"]
    assert (set(told), told["permissionDecision"]) == (
        {"hookEventName", "permissionDecision", "permissionDecisionReason"},
        "deny",
    )
    return str(told["permissionDecisionReason"])


def test_an_edit_takes_the_lease_and_another_clone_s_edit_is_denied_with_what_to_do(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    first = claude(alice, "Edit", file_path=str(alice.folder / "src/auth.py"), old_string="a", new_string="b")
    assert hook("pre-tool", first, cwd=alice.folder).stdout == ""
    assert holders(alice, "src/auth.py") == ["claude-000000000001"]
    wait_for("bob sees it", lambda: holders(bob, "src/auth.py"))
    other = claude(bob, "Write", "22222222-aaaa-bbbb-cccc-000000000002", file_path="src/auth.py", content="x")
    reason = deny_reason(hook("pre-tool", other, cwd=bob.folder))
    assert "src/auth.py: held by claude-000000000001" in reason
    assert "left" in reason
    assert "coord --agent claude-000000000002 lease src/auth.py --wait 10m" in reason
    assert "coord --agent claude-000000000002 ask src/auth.py" in reason
    # Again by who has it: kept, and no second lease.
    assert hook("pre-tool", first, cwd=alice.folder).stdout == ""
    assert holders(alice, "src/auth.py") == ["claude-000000000001"]


def test_the_plugin_s_hook_denies_as_the_command_does(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    plugin = make_plugin.ROOT / make_plugin.PLUGIN
    hooks = json.loads((plugin / "hooks" / "hooks.json").read_text("utf-8"))["hooks"]
    environment = {**os.environ, "CLAUDE_PLUGIN_ROOT": str(plugin), "CLAUDE_PROJECT_DIR": str(bob.folder), "COORD_PROGRAM": COORD}
    hook("pre-tool", claude(alice, "Edit", "plugged00001", file_path="plugged.py"), cwd=alice.folder)
    wait_for("bob sees it", lambda: holders(bob, "plugged.py"))
    done = subprocess.run(
        ["sh", "-c", hooks["PreToolUse"][0]["hooks"][0]["command"]],
        input=json.dumps(claude(bob, "Edit", "plugged00002", file_path="plugged.py")),
        env=environment,
        cwd=bob.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plugged.py: held by claude-plugged00001" in deny_reason(done)


def test_what_is_told_to_do_works_as_it_is_told(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    hook("pre-tool", claude(alice, "Write", "holder000001", file_path="told.py", content=""), cwd=alice.folder)
    wait_for("bob sees it", lambda: holders(bob, "told.py"))
    # Where `coord` is on PATH and where it is not; from the root, a folder below, and another repository.
    (bob.folder / "below").mkdir()
    event = claude(bob, "Write", "asker0000001", file_path=str(bob.folder / "told.py"))
    for place, path in ((bob.folder, "/usr/bin:/bin"), (bob.folder / "below", os.environ["PATH"]), (alice.folder, "/usr/bin:/bin")):
        reason = deny_reason(hook("pre-tool", {**event, "cwd": str(place)}, cwd=place, PATH=path))
        command = next(line for line in reason.splitlines() if line.startswith("Or ask"))
        command = command.partition("Or ask for it: ")[2].partition(" (")[0]
        assert "said to claude-holder000001" in shell(command, place, path)

    def asked() -> list[Any]:
        return [one["resource"] for one in alice.json("--agent", "claude-holder000001", "messages")["messages"]]

    wait_for("all three are about the file", lambda: asked() == [["file", "told.py"]] * 3)
    prompt = {"session_id": "holder000001", "cwd": str(alice.folder), "hook_event_name": "UserPromptSubmit", "prompt": "go on"}
    text = wait_for(
        "the holder's next prompt has it", lambda: _context(hook("prompt", prompt, cwd=alice.folder), "asks you to release told.py")
    )
    answer = text.partition("(answer: ")[2].partition(")")[0].replace("…", "done in a minute")
    shell(answer, alice.folder, os.environ["PATH"])
    prompt = {**prompt, "session_id": "asker0000001", "cwd": str(bob.folder)}
    wait_for("the asker's next prompt has the answer", lambda: _context(hook("prompt", prompt, cwd=bob.folder), "done in a minute"))
    told_again = hook("prompt", prompt, cwd=bob.folder).stdout
    assert "done in a minute" not in told_again, "once"


def shell(command: str, cwd: Path, path: str) -> str:
    environment = {**os.environ, "PATH": path}
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout


def _context(done: subprocess.CompletedProcess[str], wanted: str) -> str | None:
    text = json.loads(done.stdout)["hookSpecificOutput"]["additionalContext"] if done.stdout.strip() else ""
    return text if wanted in text else None


def test_sessions_and_subagents_are_agents_of_their_own_and_leave_with_their_leases(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    session = "33333333-aaaa-bbbb-cccc-000000000003"
    main = claude(alice, "Write", session, file_path="main.py")
    sub = {**claude(alice, "Write", session, file_path="sub.py"), "agent_id": "agent-7f", "agent_type": "general-purpose"}
    hook("pre-tool", main, cwd=alice.folder)
    hook("pre-tool", sub, cwd=alice.folder)
    assert holders(alice, "sub.py") == ["claude-000000000003.agent7f"]
    clash = {**main, "tool_input": {"file_path": "sub.py"}}
    assert "held by claude-000000000003.agent7f" in deny_reason(hook("pre-tool", clash, cwd=alice.folder))
    end = {"session_id": session, "cwd": str(alice.folder), "hook_event_name": "SubagentStop", "agent_id": "agent-7f"}
    hook("subagent-end", end, cwd=alice.folder)
    assert (holders(alice, "sub.py"), holders(alice, "main.py")) == ([], ["claude-000000000003"])
    hook("pre-tool", sub, cwd=alice.folder)
    hook("session-end", {"session_id": session, "cwd": str(alice.folder), "hook_event_name": "SessionEnd"}, cwd=alice.folder)
    assert (holders(alice, "sub.py"), holders(alice, "main.py")) == ([], [])


def test_a_session_start_tells_who_does_what_and_who_one_is(swarm: tuple[Clone, Clone], tmp_path: Path) -> None:
    alice, bob = swarm
    bob.coord("work", "set", "--issue", "#42", "--status", "Faster queries")
    wait_for("alice sees it", lambda: "Faster queries" in alice.coord("work", "show").stdout)
    env_file = tmp_path / "env"
    event = {"session_id": "s-starter0starter", "cwd": str(alice.folder), "hook_event_name": "SessionStart", "source": "startup"}
    done = hook("session-start", event, cwd=alice.folder, CLAUDE_ENV_FILE=str(env_file))
    text = _context(done, "bob works on #42: Faster queries")
    assert text is not None
    assert "You are claude-rter0starter:" in text
    assert env_file.read_text().startswith("export COORD_AGENT=claude-")
    bob.coord("work", "clear")


def test_a_lease_that_was_lost_is_told_at_the_next_prompt(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    hook("pre-tool", claude(alice, "Write", "s-loser000loser0", file_path="lost.py"), cwd=alice.folder)
    wait_for("bob sees it", lambda: holders(bob, "lost.py"))
    bob.coord("lease", "lost.py", "--priority", "9")
    prompt = {"session_id": "s-loser000loser0", "cwd": str(alice.folder), "hook_event_name": "UserPromptSubmit"}
    wait_for("it is told", lambda: _context(hook("prompt", prompt, cwd=alice.folder), "You lost the lease on lost.py to bob"))
    again = hook("prompt", prompt, cwd=alice.folder).stdout
    assert "You lost" not in again
    bob.coord("release", "lost.py")


def test_shell_writes_are_recognised(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    bob.coord("lease", "held.py")
    wait_for("alice sees it", lambda: holders(alice, "held.py"))
    for command in ("sed -i s/a/b/ held.py", "cd src && echo x > ../held.py", "git checkout -- held.py", "rm -f held.py"):
        assert "held by bob" in deny_reason(hook("pre-tool", claude(alice, "Bash", command=command), cwd=alice.folder))
    assert hook("pre-tool", claude(alice, "Bash", command="cat held.py | grep x"), cwd=alice.folder).stdout == ""
    assert hook("pre-tool", claude(alice, "Read", file_path="held.py"), cwd=alice.folder).stdout == ""
    bob.coord("release", "held.py")


@pytest.mark.parametrize("style", ["codex", "gemini", "cursor", "cursor-shell", "opencode"])
def test_the_other_agents_edits_are_denied_in_their_own_words(swarm: tuple[Clone, Clone], style: str) -> None:
    alice, bob = swarm
    name = f"{style}.py"
    bob.coord("lease", name)
    wait_for("alice sees it", lambda: holders(alice, name))
    folder = str(alice.folder)
    patch = f"*** Begin Patch\n*** Update File: {name}\n@@\n-a\n+b\n*** End Patch"
    events: dict[str, dict[str, Any]] = {
        "codex": {
            "session_id": "s1",
            "cwd": folder,
            "hook_event_name": "PreToolUse",
            "tool_name": "apply_patch",
            "tool_input": {"command": patch},
        },
        "gemini": {
            "session_id": "s1",
            "cwd": folder,
            "hook_event_name": "BeforeTool",
            "tool_name": "write_file",
            "tool_input": {"file_path": f"{folder}/{name}", "content": ""},
        },
        "cursor": {
            "conversation_id": "c1",
            "generation_id": "g1",
            "hook_event_name": "preToolUse",
            "workspace_roots": [folder],
            "tool_name": "Write",
            "tool_input": {"file_path": name},
        },
        "cursor-shell": {
            "conversation_id": "c1",
            "hook_event_name": "beforeShellExecution",
            "workspace_roots": [folder],
            "cwd": folder,
            "command": f"rm {name}",
        },
        "opencode": {"session_id": "s1", "cwd": folder, "tool": "edit", "args": {"filePath": f"{folder}/{name}"}},
    }
    agent = style.partition("-")[0]
    done = hook("pre-tool", events[style], "--for", agent, cwd=alice.folder)
    told = json.loads(done.stdout)
    if agent == "gemini":
        assert told["decision"] == "deny"
        reason = told["reason"]
    elif agent == "cursor":
        assert told["permission"] == "deny"
        assert told["user_message"]
        reason = told["agent_message"]
    else:
        reason = deny_reason(done)
    assert f"{name}: held by bob" in reason
    bob.coord("release", name)
    wait_for("it is free", lambda: not holders(alice, name))
    assert hook("pre-tool", events[style], "--for", agent, cwd=alice.folder).stdout in ("", "{}\n")
    ids = holders(alice, name)
    assert len(ids) == 1
    assert ids[0].startswith(f"{agent}-")
    alice.coord("--agent", ids[0], "release", "--all")


def test_the_target_s_path_decides_not_where_the_agent_is(swarm: tuple[Clone, Clone], tmp_path: Path) -> None:
    alice, bob = swarm
    tree = tmp_path / "linked tree"
    alice.git("worktree", "add", "-q", str(tree), "-b", "side")
    event = claude(alice, "Write", "s-worktree0worktree", file_path=str(tree / "src" / "auth2.py"))
    hook("pre-tool", {**event, "cwd": str(bob.folder)}, cwd=tmp_path)
    assert holders(alice, "src/auth2.py"), "the worktree's clone has it"
    # Outside of every repository, in git's own folder, and where no daemon ever ran: none of our business.
    for path in (tmp_path / "loose.txt", alice.folder / ".git" / "config"):
        done = hook("pre-tool", claude(alice, "Write", file_path=str(path)), cwd=alice.folder)
        assert (done.stdout, done.stderr) == ("", "")
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    done = hook("pre-tool", claude(alice, "Write", file_path=str(tmp_path / "other" / "x")), cwd=alice.folder)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_own_failure_never_blocks_work(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    for text in (
        "",
        "{",
        "[1]",
        '"x"',
        "\xff",
        json.dumps({"tool_name": 3, "tool_input": []}),
        json.dumps({"tool_input": {"file_path": 7}}),
    ):
        assert hook("pre-tool", text, cwd=alice.folder).stdout == ""
    assert "not checked" in hook("pre-tool", "{", cwd=alice.folder).stderr
    assert hook("pre-tool", "{", "--for", "gemini", cwd=alice.folder).stdout == "{}\n"
    assert "usage: coord hook" in hook("nonsense", "{}", cwd=alice.folder, expect=1).stderr
    # A daemon that is not there.
    with repository("carol") as (carol,):
        carol.start()
        carol.coord("stop")
        done = hook("pre-tool", claude(carol, "Write", file_path="a.py"), cwd=carol.folder)
        assert done.stdout == ""
        assert "not checked" in done.stderr
        assert "coord start" in done.stderr
        done = hook("prompt", {"session_id": "s", "cwd": str(carol.folder)}, cwd=carol.folder)
        assert (done.stdout, "no briefing" in done.stderr) == ("", True)


def test_what_is_wrong_with_one_path_is_told_and_the_others_are_checked(
    swarm: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = swarm
    bob.coord("lease", "good/held.py")

    def fails_there(folder: str) -> Any:
        if folder.endswith("bad"):
            raise PermissionError(13, "Permission denied")
        return find_clone(folder)

    for name in ("bad", "good"):
        (alice.folder / name).mkdir()
    monkeypatch.setattr(agents, "find_clone", fails_there)
    patch = "*** Begin Patch\n*** Update File: bad/a.py\n@@\n-a\n+b\n*** Update File: good/held.py\n@@\n-a\n+b\n*** End Patch"
    event = {"session_id": "s1", "cwd": str(alice.folder), "tool_name": "apply_patch", "tool_input": {"command": patch}}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(event).encode())))
    assert agents.run(["pre-tool", "--for", "codex"]) == 0
    said = capsys.readouterr()
    assert "held by bob" in said.out
    assert "not checked: bad/a.py: PermissionError" in said.err
    bob.coord("release", "good/held.py")


def test_a_hundred_at_once_are_answered(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    bob.coord("lease", "crowd/held.py")
    wait_for("alice sees it", lambda: holders(alice, "crowd/held.py"))

    def one(number: int) -> bool:
        held = number % 2 == 0
        path = "crowd/held.py" if held else f"crowd/{number}.py"
        done = hook("pre-tool", claude(alice, "Write", f"s-crowd-{number:04}", file_path=path), cwd=alice.folder)
        return ("held by bob" in done.stdout) is held and "not checked" not in done.stderr

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(one, range(100)))
    bob.coord("release", "crowd/held.py")
