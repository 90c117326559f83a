"""`coord check PATH…` in about the time that Python itself takes to start.

Agents run it at every edit. So this uses built-in modules alone (`client/plain.py`, neither argparse nor msgspec), and does only
the usual case. Whatever is unusual (other options, no daemon, an error) returns None, and the full command does it again with the
same output and exit code: `tests/cli/test_fast.py` holds both to that.
"""

import os
import sys

from sudocode_coordination.cli.conflicts import check_text
from sudocode_coordination.cli.text import json_text, resource_name
from sudocode_coordination.client.plain import Failed, Refused, ask
from sudocode_coordination.place import find_clone, repo_relative, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_TIMEOUT_S = 2
"""The daemon reads its memory only; when it takes this long, the full command says what is wrong."""
CONFLICT_KEYS = ("resource", "kind", "agentId", "peerId", "priority", "remainingMs", "note", "lines", "theirLines")
"""Of an encoded `model.Conflict`, in its order; a test compares them."""
_TYPES = ("file", "issue", "spec", "component")
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+-")


def fast_check(argv: "list[str]") -> "int | None":
    """Do `coord check` with these arguments: the exit code, or None if it is no usual case (nothing is printed then)."""
    parsed = _arguments(argv)
    if parsed is None:
        return None
    address, resources, agent, as_json = parsed
    conflicts = _ask(address, {"resources": [list(resource) for resource in resources], "agent": agent})
    if conflicts is None:
        return None
    return _print(conflicts, [resource_name(resource) for resource in resources], as_json)


def _arguments(argv: "list[str]") -> "tuple[str, list[tuple[str, str]], str | None, bool] | None":
    """The daemon's socket, resources, agent, --json."""
    agent = os.environ.get("COORD_AGENT")
    as_json = False
    texts = []
    words = iter(argv)
    for word in words:
        if word == "--json":
            as_json = True
        elif word == "--agent":
            agent = next(words, "")
            if not agent:
                return None
        elif word.startswith("-") or not word:
            return None
        else:
            texts.append(word)
    if not texts or (agent and not (len(agent) <= 100 and agent[0].isalnum() and _SAFE.issuperset(agent))):
        return None
    resources = []
    try:
        clone = find_clone()
        if clone.work_tree is None:
            return None  # what names mean there is asked of git
        cwd = os.getcwd()  # noqa: PTH109 - pathlib costs milliseconds
        for text in texts:
            kind, colon, name = text.partition(":")
            if not colon or kind not in _TYPES:
                kind, name = "file", text
            if kind in ("file", "spec"):
                name = repo_relative(clone, cwd, name)
            elif not name.strip():
                return None
            resources.append((kind, name if kind in ("file", "spec") else name.strip()))
    except Exception:  # noqa: BLE001 - whatever it is, the full command meets it again and reports it
        return None
    return socket_path(clone), resources, agent or None, as_json


def _ask(address: str, params: "dict[str, Any]") -> "list[dict[str, Any]] | None":
    """The conflicts that the daemon answers with, None if that did not go as usual."""
    try:
        answered = ask(address, "check", params, ANSWER_TIMEOUT_S)
        return [{key: found.get(key) for key in CONFLICT_KEYS} for found in answered["conflicts"]]
    except (Failed, Refused, LookupError, TypeError, AttributeError):
        return None


def _print(conflicts: "list[dict[str, Any]]", asked: "list[str]", as_json: bool) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # see screen.prepare_streams
    try:
        if not as_json:
            sys.stdout.write(check_text(conflicts, asked) + "\n")
        elif conflicts or sys.stdout.isatty():
            sys.stdout.write(json_text({"conflicts": conflicts}, pretty=sys.stdout.isatty()) + "\n")
        else:
            sys.stdout.write('{"conflicts":[]}\n')
        sys.stdout.flush()
    except OSError as error:
        from sudocode_coordination.cli.screen import output_failed

        return output_failed(error)
    return 3 if conflicts else 0
