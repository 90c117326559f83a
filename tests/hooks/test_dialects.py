"""How each agent tells and is told; names of sessions; what a briefing says. No process is started here."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.client.plain import Failed, parse, written
from sudocode_coordination.hooks import agents, dialects


@pytest.mark.parametrize(
    ("event", "agent"),
    [
        ({"hook_event_name": "PreToolUse"}, "claude"),
        ({"hook_event_name": "BeforeTool"}, "gemini"),
        ({"hook_event_name": "preToolUse"}, "cursor"),
        ({"conversation_id": "c"}, "cursor"),
        ({}, "claude"),
    ],
)
def test_the_agent_is_told_by_its_event(event: dict[str, Any], agent: str) -> None:
    assert dialects.agent_of(event, None) == agent
    assert dialects.agent_of(event, "codex") == "codex"


def test_sessions_have_names_that_agents_may_have() -> None:
    session = {"session_id": "0a1b2c3d-0000-4000-8000-00005e551047"}
    assert dialects.identity_of(session, "claude", None) == "claude-00005e551047"
    assert dialects.identity_of({**session, "agent_id": "sub-1"}, "claude", None) == "claude-00005e551047.sub1"
    assert dialects.identity_of({**session, "agent_id": "sub-1"}, "claude", "me") == "me.sub1"
    assert dialects.identity_of({"session_id": "../;$()"}, "codex", None) == "codex-session"
    assert dialects.identity_of({}, "gemini", None) == "gemini-session"


@pytest.mark.parametrize(
    ("event", "paths"),
    [
        ({"tool_name": "Edit", "tool_input": {"file_path": "a"}}, ["a"]),
        ({"tool_name": "NotebookEdit", "tool_input": {"notebook_path": "n.ipynb"}}, ["n.ipynb"]),
        ({"tool_name": "Read", "tool_input": {"file_path": "a"}}, []),
        ({"tool_name": "mcp__fs__read", "tool_input": {"path": "a"}}, []),
        ({"tool_name": "Bash", "tool_input": {"command": "rm a"}}, ["/w/a"]),
        ({"tool_name": "shell", "tool_input": {"command": ["bash", "-lc", "rm a && cd b"]}}, ["/w/a"]),
        ({"tool_name": "shell", "tool_input": {"command": ["rm", "a b"]}}, ["/w/a b"]),
        ({"tool_name": "shell", "tool_input": {"command": ["apply_patch", "*** Update File: p\n"]}}, ["p"]),
        ({"tool_name": "apply_patch", "tool_input": {"command": "*** Add File: q\n*** Move to: r\n"}}, ["q", "r"]),
        ({"tool_name": "functions.apply_patch", "tool_input": {"input": "*** Delete File: q\n"}}, ["q"]),
        ({"command": "touch a", "hook_event_name": "beforeShellExecution"}, ["/w/a"]),
        ({"tool": "write", "args": {"filePath": "x"}}, ["x"]),
        ({"tool_name": "Write", "tool_input": {"file_path": 7}}, []),
        ({"tool_name": None, "tool_input": "x"}, []),
    ],
)
def test_what_is_written(event: dict[str, Any], paths: list[str]) -> None:
    assert dialects.targets_of(event, "/w") == paths


def test_where_the_agent_is() -> None:
    assert dialects.folder_of({"cwd": "/a"}, "/x") == "/a"
    assert dialects.folder_of({"workspace_roots": ["/b"]}, "/x") == "/b"
    assert dialects.folder_of({"tool_input": {"workdir": "/c"}}, "/x") == "/c"
    assert dialects.folder_of({"cwd": "relative", "workspace_roots": []}, "/x") == "/x"


def test_nothing_to_say_is_said_in_every_dialect() -> None:
    for agent in dialects.AGENTS:
        for event in ("session-start", "prompt"):
            assert dialects.context(agent, event, "") == dialects.allowed(agent)
            text = dialects.context(agent, event, "x\n'ü'\x1b")
            if text != dialects.allowed(agent):
                assert json.loads(text)
                assert json.dumps("x\n'ü'\x1b") in text


def test_a_briefing_is_short_and_harmless() -> None:
    lease = {"resources": [["file", "a\x1b[2J"]], "agentId": "bob", "state": "granted", "remainingMs": 60_000, "note": "n\u202e"}
    told = {
        "lost": [{"resources": [["issue", "#1"]], "reason": "preempted", "holder": "eve"}],
        "messages": [{"messageId": "m1", "agentId": "bob", "kind": "note", "resource": None, "text": "hi\nthere"}],
        "work": [{"agentId": f"w{n}", "issues": [], "specs": [], "files": ["f"], "status": "s"} for n in range(30)],
        "leases": [lease, {**lease, "state": "pending"}],
    }
    lines = agents.briefing_lines(told, "me")
    assert "lost the lease on issue:#1 to eve" in lines[0]
    assert "bob says: hi there" in lines[1]
    assert lines[-1] == "- … and 22 more: coord status"
    assert len(lines) == 2 + agents.MAX_TOLD + 2 + 1
    assert all(line.isprintable() for line in lines)
    assert agents.briefing_lines({}, "me") == []


def test_processes_above_end_at_the_top() -> None:
    found = agents.processes_above()
    assert os.getppid() in found or not found
    assert len(found) == len(set(found)) < 65


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_written_and_read_as_the_library_does(value: Any) -> None:
    text = written(value)
    assert json.loads(text) == value
    assert parse(f"  {text}\n") == value


@pytest.mark.parametrize("text", ["", "{", "1 2", "nul", '"\x01"', "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(Failed):
        parse(text)
