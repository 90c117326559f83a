"""Where coding agents have their MCP servers: our entry put in and taken out, the rest of each file left as it is.

The entry is called `coord`. One with that name that runs another program is the user's, and stays. Sources: the pages of Claude
Code, Codex, Gemini CLI, Cursor and OpenCode on MCP.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks.marked import with_block, without_block
from sudocode_coordination.hooks.settings import Json, parsed, rewritten

NAME: Final = "coord"
BEGIN: Final = "# >>> coord mcp >>>"
END: Final = "# <<< coord mcp <<<"
MAX_WAIT_S: Final = 3_600
"""An agent may wait that long for a lease: some end a call after a minute if they are not told otherwise."""


class Registration(NamedTuple):
    """The MCP server in one file of one agent."""

    name: str
    """Of the agent, as in `settings.integrations`."""
    path: Path
    wanted: Callable[[str | None], str]
    """The file's text with the entry, from the one that is there; the same if a foreign entry has its name."""
    without: Callable[[str], str | None]
    """The same without it; None: nothing else is left, the file goes."""


def registrations(root: Path, program: str) -> list[Registration]:
    """Of every agent that has a file for servers in the repository at `root`."""
    plain: Json = {"command": program, "args": ["mcp"]}
    here: Json = {"command": program, "args": ["mcp", "--repo", "${workspaceFolder}"]}
    patient: Json = {**plain, "timeout": MAX_WAIT_S * 1_000}
    local: Json = {"type": "local", "command": [program, "mcp"], "enabled": True}
    return [
        _in_json("claude", root / ".mcp.json", "mcpServers", plain),
        Registration("codex", root / ".codex" / "config.toml", partial(_with_table, program), _without_table),
        _in_json("gemini", root / ".gemini" / "settings.json", "mcpServers", patient, comments=True),
        _in_json("cursor", root / ".cursor" / "mcp.json", "mcpServers", here),
        _in_json("opencode", root / "opencode.json", "mcp", local, comments=True),
    ]


def _in_json(name: str, path: Path, key: str, entry: Json, *, comments: bool = False) -> Registration:
    return Registration(name, path, partial(_with_entry, key, entry, comments), partial(_without_entry, key, comments))


def _with_entry(key: str, entry: Json, comments: bool, text: str | None) -> str:
    document = parsed(text, comments=comments) if text is not None and text.strip() else {}
    servers = document.setdefault(key, {})
    if not isinstance(servers, dict):
        raise CoordinationError(f"its `{key}` is no object", hint="put it right by hand first")
    present = servers.get(NAME)
    if present is not None and not _is_ours(present):
        return text or ""
    servers[NAME] = entry
    return rewritten(text, document, comments=comments)


def _without_entry(key: str, comments: bool, text: str) -> str | None:
    document = parsed(text, comments=comments)
    servers = document.get(key)
    if not isinstance(servers, dict) or not _is_ours(servers.get(NAME)):
        return text
    del servers[NAME]
    if not servers:
        del document[key]
    return rewritten(text, document, comments=comments) if document else None


def _is_ours(entry: Json) -> bool:
    """It runs a program called coord as a server, wherever that was when it was written."""
    if not isinstance(entry, dict):
        return False
    command, arguments = entry.get("command"), entry.get("args", [])
    words = [*(command if isinstance(command, list) else [command]), *(arguments if isinstance(arguments, list) else [])]
    return len(words) > 1 and isinstance(words[0], str) and Path(words[0]).name == NAME and words[1] == "mcp"


def _with_table(program: str, text: str | None) -> str:
    """A marked block at the end: comments of a TOML file are the user's, and stay."""
    servers = _toml(_without_table(text or "") or "").get("mcp_servers", {})
    if isinstance(servers, dict) and NAME in servers:
        return text or ""
    table = f'[mcp_servers.{NAME}]\ncommand = {json.dumps(program)}\nargs = ["mcp"]\ntool_timeout_sec = {MAX_WAIT_S}\n'
    made = with_block(text, BEGIN, table, END)
    try:
        _toml(made)
    except CoordinationError:  # an inline table is closed
        raise CoordinationError("its `mcp_servers` takes no table more", hint="write it as [mcp_servers.NAME] first") from None
    return made


def _toml(text: str) -> dict[str, Json]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CoordinationError(f"it is no TOML: {error}", hint="put it right by hand first") from None


def _without_table(text: str) -> str | None:
    return without_block(text, BEGIN, END)
