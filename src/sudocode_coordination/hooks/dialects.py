"""How each coding agent tells of what it is about to do, and how it is answered.

| agent | edits come as | denied by | told at a start and at a prompt by |
|---|---|---|---|
| Claude Code | `tool_input.file_path`, `notebook_path`, `command` | `permissionDecision` | `additionalContext` |
| Codex | `apply_patch` in `tool_input.command`, shell commands | the same, these three fields alone | the same |
| Gemini CLI | `tool_input.file_path`, `command` | `decision`, `reason` | `additionalContext` |
| Cursor | `tool_input`, `command` | `permission`, `user_message`, `agent_message` | `additional_context`, at a start only |
| OpenCode | our plugin, in Claude Code's form | the plugin throws the reason | the plugin |

Built-in modules alone: it runs at every edit.
"""

from sudocode_coordination.client.plain import written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AGENTS = ("claude", "codex", "gemini", "cursor", "opencode")
EVENTS = ("pre-tool", "session-start", "prompt", "session-end", "subagent-end")
"""What `coord hook` can be called for."""
_WRITERS = frozenset(
    (
        "write", "edit", "multiedit", "notebookedit", "write_file", "replace", "edit_file", "search_replace", "strreplace",
        "delete", "delete_file", "create_file", "patch", "apply_patch", "applypatch", "update_file", "edit_notebook",
    )
)  # fmt: skip
"""Tools that write files, in small letters."""
_SHELLS = frozenset(("bash", "shell", "local_shell", "shell_command", "exec_command", "run_shell_command", "run_terminal_cmd"))
_PATH_KEYS = ("file_path", "notebook_path", "filePath", "path", "target_file", "absolute_path")
_PATCH_KEYS = ("command", "input", "patch", "patchText", "patch_text")
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ID_CHARACTERS = 12
"""Of a session's id, its last ones: the first ones of some ids are the time."""


def agent_of(event: "dict[str, Any]", named: "str | None") -> str:
    """Which coding agent it is: as the hook was told, else by the event's own name."""
    if named is not None:
        return named
    name = str(event.get("hook_event_name") or "")
    if name.startswith(("Before", "After")):
        return "gemini"
    if "conversation_id" in event or name[:1].islower():
        return "cursor"
    return "claude"


def identity_of(event: "dict[str, Any]", agent: str, environment: "str | None") -> str:
    """The agent id: a session's, a subagent's behind a dot; `COORD_AGENT` goes before the session's."""
    session = str(event.get("session_id") or event.get("conversation_id") or event.get("sessionID") or "")
    id_ = environment or f"{agent}-{_short(session) or 'session'}"
    sub = _short(str(event.get("agent_id") or ""))
    return f"{id_}.{sub}" if sub and not id_.endswith("." + sub) else id_


def _short(text: str) -> str:
    return "".join(c for c in text if c in _NAME_CHARACTERS)[-_ID_CHARACTERS:]


def folder_of(event: "dict[str, Any]", fallback: str) -> str:
    """Where the agent is: what relative paths are relative to."""
    roots = event.get("workspace_roots")
    first = roots[0] if isinstance(roots, list) and roots else None
    for found in (event.get("cwd"), _input_of(event).get("cwd"), _input_of(event).get("workdir"), first):
        if isinstance(found, str) and found.startswith("/"):
            return found
    return fallback


def targets_of(event: "dict[str, Any]", cwd: str) -> "list[str]":
    """Paths that the tool is about to write, as it names them; none for a tool that only reads."""
    tool = str(event.get("tool_name") or event.get("tool") or "").rpartition(".")[2].lower()
    given = _input_of(event)
    if not tool and isinstance(event.get("command"), str):  # Cursor's beforeShellExecution
        tool, given = "shell", {"command": event["command"]}
    if tool in _SHELLS:
        command = given.get("command") or given.get("cmd") or ""
        if isinstance(command, list):
            words = [str(word) for word in command]
            if words[:1] in (["apply_patch"], ["applypatch"]):
                return _patched(words[1:])
            # `["bash", "-lc", "…"]` is the script; other lists are one command.
            command = words[-1] if len(words) > 2 and words[1].startswith("-") and words[1].endswith("c") else _quoted(words)
        from sudocode_coordination.hooks.shell import written_paths

        return written_paths(str(command), cwd)
    if tool not in _WRITERS:
        return []
    if tool in ("apply_patch", "applypatch", "patch"):
        found = _patched([_text(given.get(key)) for key in _PATCH_KEYS])
        if found:
            return found
    return [str(given[key]) for key in _PATH_KEYS if isinstance(given.get(key), str) and given[key]][:1]


def _patched(texts: "list[str]") -> "list[str]":
    from sudocode_coordination.hooks.shell import patched_paths

    return [path for text in texts for path in patched_paths(text)]


def _text(value: "Any") -> str:
    return "\n".join(str(one) for one in value) if isinstance(value, list) else value if isinstance(value, str) else ""


def _quoted(words: "list[str]") -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def _input_of(event: "dict[str, Any]") -> "dict[str, Any]":
    for key in ("tool_input", "args"):
        found = event.get(key)
        if isinstance(found, dict):
            return found
    return {}


# --- answers --------------------------------------------------------------------------------------------------------------


def allowed(agent: str) -> str:
    """What is printed when there is nothing to say."""
    return "{}\n" if agent in ("gemini", "cursor") else ""


def denied(agent: str, reason: str) -> str:
    """What is printed to keep the tool from running."""
    if agent == "gemini":
        return written({"decision": "deny", "reason": reason}) + "\n"
    if agent == "cursor":
        return written({"permission": "deny", "user_message": reason, "agent_message": reason}) + "\n"
    decision = {"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": reason}
    return written({"hookSpecificOutput": decision}) + "\n"


def context(agent: str, event: str, text: str) -> str:
    """What is printed to tell the agent something."""
    if not text:
        return allowed(agent)
    if agent == "cursor":
        return written({"additional_context": text}) + "\n" if event == "session-start" else allowed(agent)
    if agent == "gemini":
        name = "SessionStart" if event == "session-start" else "BeforeAgent"
    else:
        name = "SessionStart" if event == "session-start" else "UserPromptSubmit"
    return written({"hookSpecificOutput": {"hookEventName": name, "additionalContext": text}}) + "\n"
