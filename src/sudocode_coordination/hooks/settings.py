"""The settings of coding agents: which files have our hooks, as they are with and without them.

A settings file is the user's: what is in it stays to the letter, and what is not ours is not looked at. Laws: putting our entries
in twice is the same as once; taking them away leaves the rest as it was; a file that its agent could not read is not touched.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks import jsontext
from sudocode_coordination.hooks.marked import with_block, without_block

Json: TypeAlias = Any
_OURS: Final = (" hook pre-tool", " hook session-start", " hook prompt", " hook session-end", " hook subagent-end")
"""In a command: it is one of ours, wherever this program was when it was written."""
_SECONDS: Final = 5
"""For a hook, where the agent wants a limit in seconds."""
BEGIN: Final = "<!-- coord: begin -->"
END: Final = "<!-- coord: end -->"
_ADVICE: Final = """\
## Other agents work here too

This repository is coordinated with `coord`. Before you edit a file, others may hold a lease on it:

- `coord status` shows who works on what; `coord check PATH` exits with 3 if somebody holds or works on it.
- `coord lease PATH --wait 10m` takes it, or waits for it; `coord release PATH` gives it back.
- `coord ask PATH "why"` asks the holder for it; `coord messages` shows what others say to you.
"""
_PLUGIN: Final = """\
// Written by `coord init`; `coord init --remove` takes it away.
import { spawnSync } from "node:child_process"

const coord = (event, given) =>
  spawnSync(%s, ["hook", event, "--for", "opencode"], { input: JSON.stringify(given), encoding: "utf8", timeout: 5000 })

export const Coordination = async ({ directory }) => ({
  "tool.execute.before": async (input, output) => {
    const given = { session_id: input.sessionID, cwd: directory, tool: input.tool, args: output.args }
    const told = coord("pre-tool", given)
    if (!told.stdout) return
    let decision
    try {
      decision = JSON.parse(told.stdout).hookSpecificOutput
    } catch {
      return // an own failure never blocks work
    }
    if (decision && decision.permissionDecision === "deny") throw new Error(decision.permissionDecisionReason)
  },
  event: async ({ event }) => {
    const session = event.properties && (event.properties.sessionID || (event.properties.info && event.properties.info.id))
    if (event.type === "session.created") coord("session-start", { session_id: session, cwd: directory })
    if (event.type === "session.deleted") coord("session-end", { session_id: session, cwd: directory })
  },
})
"""


_PLUGIN_BEGIN: Final = _PLUGIN.partition(";")[0]


class Integration(NamedTuple):
    """One file of one agent."""

    name: str
    """As the user calls it."""
    path: Path
    signs: tuple[str, ...]
    """Files and folders of the repository, or programs (`!name`), by which the agent is found."""
    wanted: Callable[[str | None], str]
    """The file's text with our entries, from the one that is there."""
    without: Callable[[str], str | None]
    """The same without them; None: nothing else is left, the file goes."""


def integrations(root: Path, program: str) -> list[Integration]:
    """All that we know, in the repository at `root`."""
    command = shlex.quote(program)
    return [
        Integration(
            "claude",
            root / ".claude" / "settings.local.json",
            (".claude", "CLAUDE.md", "!claude"),
            lambda text: _with_hooks(text, claude_hooks(command)),
            _without_hooks,
        ),
        Integration(
            "codex",
            root / ".codex" / "hooks.json",
            (".codex", "!codex"),
            lambda text: _with_hooks(text, _codex(command)),
            _without_hooks,
        ),
        Integration(
            "gemini",
            root / ".gemini" / "settings.json",
            (".gemini", "GEMINI.md", "!gemini"),
            lambda text: _with_hooks(text, _gemini(command), comments=True),
            lambda text: _without_hooks(text, comments=True),
        ),
        Integration(
            "cursor",
            root / ".cursor" / "hooks.json",
            (".cursor", ".cursorrules", "!cursor"),
            lambda text: _with_hooks(text, _cursor(command), base={"version": 1}),
            lambda text: _without_hooks(text, base={"version": 1}),
        ),
        Integration(
            "opencode",
            root / ".opencode" / "plugins" / "coordination.js",
            (".opencode", "opencode.json", "opencode.jsonc", "!opencode"),
            lambda text: _with_plugin(text, program),
            lambda text: None if text.startswith(_PLUGIN_BEGIN) else text,
        ),
        Integration("agents.md", root / "AGENTS.md", ("AGENTS.md",), _with_advice, _without_advice),
    ]


# --- the agents -----------------------------------------------------------------------------------------------------------


def claude_hooks(command: str) -> dict[str, Json]:
    """Of Claude Code: an entry of each event's list. The command is a shell's."""

    def one(event: str, **more: Json) -> Json:
        return {**more, "hooks": [{"type": "command", "command": f"{command} hook {event} --for claude", "timeout": _SECONDS}]}

    return {
        "PreToolUse": one("pre-tool", matcher="Write|Edit|MultiEdit|NotebookEdit|Bash"),
        "SessionStart": one("session-start"),
        "UserPromptSubmit": one("prompt"),
        "SubagentStop": one("subagent-end"),
        "SessionEnd": one("session-end"),
    }


def _codex(command: str) -> dict[str, Json]:
    def one(event: str, **more: Json) -> Json:
        return {**more, "hooks": [{"type": "command", "command": f"{command} hook {event} --for codex", "timeout": _SECONDS}]}

    return {
        "PreToolUse": one("pre-tool", matcher="apply_patch|Edit|Write|Bash|shell|local_shell|exec_command"),
        "SessionStart": one("session-start"),
        "UserPromptSubmit": one("prompt"),
    }


def _gemini(command: str) -> dict[str, Json]:
    def one(event: str, **more: Json) -> Json:
        line = f"{command} hook {event} --for gemini"
        return {**more, "hooks": [{"name": f"coord-{event}", "type": "command", "command": line, "timeout": _SECONDS * 1_000}]}

    return {
        "BeforeTool": one("pre-tool", matcher="write_file|replace|run_shell_command"),
        "SessionStart": one("session-start"),
        "BeforeAgent": one("prompt"),
        "SessionEnd": one("session-end"),
    }


def _cursor(command: str) -> dict[str, Json]:
    def one(event: str) -> Json:
        return {"command": f"{command} hook {event} --for cursor", "timeout": 3 * _SECONDS}

    return {
        "preToolUse": one("pre-tool"),
        "beforeShellExecution": one("pre-tool"),
        "sessionStart": one("session-start"),
        "sessionEnd": one("session-end"),
    }


# --- files ----------------------------------------------------------------------------------------------------------------


def _with_hooks(text: str | None, wanted: dict[str, Json], *, base: dict[str, Json] | None = None, comments: bool = False) -> str:
    document = parsed(text, comments=comments) if text is not None and text.strip() else dict(base or {})
    hooks = document.setdefault("hooks", {})
    if not isinstance(hooks, dict):
        raise CoordinationError("its `hooks` is no object", hint="put it right by hand first")
    for event, entry in wanted.items():
        present = hooks.get(event, [])
        if not isinstance(present, list):
            raise CoordinationError(f"its hooks of {event} are no list", hint="put it right by hand first")
        ours = [one for one in present if _is_ours(one)]
        if ours != [entry]:  # else it stays where it is
            hooks[event] = [one for one in present if not _is_ours(one)] + [entry]
    return rewritten(text, document, comments=comments)


def _without_hooks(text: str, *, base: dict[str, Json] | None = None, comments: bool = False) -> str | None:
    document = parsed(text, comments=comments)
    hooks = document.get("hooks")
    if not isinstance(hooks, dict):
        return text
    for event in list(hooks):
        if isinstance(hooks[event], list):
            hooks[event] = [one for one in hooks[event] if not _is_ours(one)]
            if not hooks[event]:
                del hooks[event]
    if not hooks:
        del document["hooks"]
    return None if document == (base or {}) else rewritten(text, document, comments=comments)


def _is_ours(entry: Json) -> bool:
    if not isinstance(entry, dict):
        return False
    commands = [entry, *(entry["hooks"] if isinstance(entry.get("hooks"), list) else [])]
    return any(
        isinstance(one, dict) and isinstance(one.get("command"), str) and any(mark in one["command"] for mark in _OURS)
        for one in commands
    )


def parsed(text: str, *, comments: bool = False) -> dict[str, Json]:
    """A settings file.

    Args:
        comments: its agent takes them.

    Raises:
        CoordinationError: it is no JSON object.
    """
    try:
        document = jsontext.read(text, comments=comments)
    except (ValueError, RecursionError) as error:  # it is the repository's, so anybody may have written it
        hint = "put it right by hand first" + ("" if comments else "; its agent takes no comments")
        raise CoordinationError(f"it is no JSON: {error}", hint=hint) from None
    if not isinstance(document, dict):
        raise CoordinationError("it is no JSON object", hint="put it right by hand first")
    return document


def rewritten(text: str | None, document: dict[str, Json], *, comments: bool = False) -> str:
    """The file with what is in `document`, the rest of it to the letter.

    Raises:
        CoordinationError: it is nested too deeply for that.
    """
    if text is None or not text.strip():
        return jsontext.written(document)
    try:
        return jsontext.edited(text, document, comments=comments)
    except RecursionError:
        raise CoordinationError("it is nested too deeply", hint="put it right by hand first") from None


def _with_plugin(text: str | None, program: str) -> str:
    if text is not None and text.strip() and not text.startswith(_PLUGIN_BEGIN):
        raise CoordinationError("it is another plugin", hint="rename it first")
    return _PLUGIN % json.dumps(program)


def _with_advice(text: str | None) -> str:
    return with_block(text, BEGIN, _ADVICE, END)


def _without_advice(text: str) -> str | None:
    return without_block(text, BEGIN, END)
