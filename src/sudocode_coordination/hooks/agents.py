"""`coord hook EVENT`: what a coding agent calls before it edits, at the start of a session, at each prompt, and at the end.

    pre-tool       the lease on what is about to be written is taken or kept, or the edit is denied with what to do instead
    session-start, prompt       what others do, what was lost, and what was said to the agent
    session-end, subagent-end   the agent leaves, its leases end

Laws: an own failure never blocks work: it is told on standard error, and the edit is allowed. What is decided is decided by the
path that is written, whatever the working directory. Paths outside of a repository, and repositories in which no daemon has ever
run, are none of our business. Built-in modules alone.
"""

import os
import sys

from sudocode_coordination.cli.conflicts import conflict_lines, foretold_line
from sudocode_coordination.cli.text import clean, resource_name, shown_duration
from sudocode_coordination.client.plain import Failed, Refused, ask, parse
from sudocode_coordination.hooks import dialects
from sudocode_coordination.place import find_clone, repo_relative, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sudocode_coordination.place import Clone

ANSWER_S = 3.5
"""For the daemon to decide; agents end a hook after 5 s or so. A lease that is free is decided in milliseconds."""
MAX_EVENT_BYTES = 32 << 20
"""Of what an agent tells: a file that is written is in it."""
MAX_PATHS = 200
"""Written by one command that are asked for; the rest is left to the guards."""
MAX_TYPED = 20
"""Of these in the command that waits for them."""
MAX_TOLD = 8
"""Lines of a kind in a briefing: it costs the agent's attention."""
IDLE_MS = 1_800_000
"""A session silent for so long has ended, or waits for somebody who is not there: its leases are free again."""


def run(argv: "list[str]") -> int:
    """The exit code: 0 but for a call that makes no sense."""
    words = [word for word in argv if not word.startswith("--for")]
    named = next((word.partition("=")[2] for word in argv if word.startswith("--for=")), None)
    if "--for" in argv and argv.index("--for") + 1 < len(argv):
        named = argv[argv.index("--for") + 1]
        words = [word for word in words if word != named]
    if len(words) != 1 or words[0] not in dialects.EVENTS or (named is not None and named not in dialects.AGENTS):
        sys.stderr.write(
            f"usage: coord hook {'|'.join(dialects.EVENTS)} [--for {'|'.join(dialects.AGENTS)}]\n"
            "the event comes on standard input, as JSON\n"
        )
        return 1  # 2 would block the edit
    try:
        text = sys.stdin.buffer.read(MAX_EVENT_BYTES + 1)
        if len(text) > MAX_EVENT_BYTES:
            raise Failed("the event is too long")
        event = parse(text.decode("utf-8", "replace") or "{}")
        if not isinstance(event, dict):
            raise Failed("the event is no JSON object")
        return _handle(words[0], event, named)
    except Failed as error:
        return _unchecked(str(error), named or "claude")
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be able to work
        return _unchecked(f"{type(error).__name__}: {error}", named or "claude")


def _unchecked(why: str, agent: str) -> int:
    sys.stderr.write(f"coord: not checked: {clean(why)}\n")
    sys.stdout.write(dialects.allowed(agent))
    return 0


def _handle(what: str, event: "dict[str, Any]", named: "str | None") -> int:
    agent = dialects.agent_of(event, named)
    me = dialects.identity_of(event, agent, os.environ.get("COORD_AGENT"))
    cwd = dialects.folder_of(event, os.getcwd())  # noqa: PTH109 - pathlib costs milliseconds
    if what == "pre-tool":
        answer = _before_edit(event, agent, me, cwd)
    elif what in ("session-start", "prompt"):
        answer = _brief(what, agent, me, cwd)
    else:
        _end(what, me, cwd)
        answer = dialects.allowed(agent)
    sys.stdout.write(answer)
    return 0


# --- before an edit -------------------------------------------------------------------------------------------------------


def _before_edit(event: "dict[str, Any]", agent: str, me: str, cwd: str) -> str:
    by_socket: dict[str, tuple[Clone, list[list[str]]]] = {}
    for path in dialects.targets_of(event, cwd)[:MAX_PATHS]:
        place = _place_of(path, cwd)
        if place is not None:
            clone, name = place
            by_socket.setdefault(socket_path(clone), (clone, []))[1].append(["file", name])
    reasons = []
    for address, (clone, resources) in by_socket.items():
        params = {"resources": resources, "agent": me, "idleMs": IDLE_MS, "process": session_process(), "note": _note(event)}
        try:
            outcome = ask(address, "touch", params, ANSWER_S)
        except Failed as error:
            sys.stderr.write(f"coord: not checked: no answer from the daemon ({clean(error)}); coord start, or coord doctor\n")
        except Refused as error:
            sys.stderr.write(f"coord: not checked: {clean(error.message)}\n")
        else:
            if not outcome.get("granted") and outcome.get("holders"):
                reasons.append(_reason(outcome["holders"], [name for _, name in resources], me, clone, cwd))
    return dialects.denied(agent, "\n".join(reasons)) if reasons else dialects.allowed(agent)


def _place_of(path: str, cwd: str) -> "tuple[Clone, str] | None":
    """The clone that a path is in, and its name there; None if it is none of ours."""
    absolute = os.path.join(cwd, os.path.expanduser(path))  # noqa: PTH111, PTH118 - pathlib costs milliseconds
    folder = os.path.dirname(absolute)  # noqa: PTH120
    while not os.path.isdir(folder) and folder != "/":  # noqa: PTH112
        folder = os.path.dirname(folder)  # noqa: PTH120
    try:
        clone = find_clone(folder)
        name = repo_relative(clone, cwd, absolute)
    except Exception as error:  # noqa: BLE001 - what is wrong with one path must not leave the others unchecked
        _told_unless_elsewhere(error, path)
        return None
    if not os.path.isdir(clone.state_dir):  # noqa: PTH112 - no daemon ever ran there
        return None
    return clone, name


def _note(event: "dict[str, Any]") -> str:
    tool = str(event.get("tool_name") or event.get("tool") or "")
    return f"editing ({clean(tool, 40)})" if tool else "editing"


def _reason(holders: "list[dict[str, Any]]", wanted: "list[str]", me: str, clone: "Clone", cwd: str) -> str:
    """Who has it, and what can be done: an agent reads it, and runs it where it is."""
    go, typed = _typed(wanted[:MAX_TYPED], clone, cwd)
    own = f"{go}{_program()} --agent {me}"
    # One of several is asked for by the name under which it is held.
    _, asked = (go, typed) if len(wanted) == 1 else _typed([str(holders[0].get("resource", ["file", "?"])[1])], clone, cwd)
    return "\n".join(
        (
            "Not yours to edit now: " + "; ".join(conflict_lines(holders)) + ".",
            f"Do something else first, or wait your turn: {own} lease {typed} --wait 10m",
            f"Or ask for it: {own} ask {asked} 'why you need it' (the answer comes with your next prompt).",
        )
    )


def _typed(names: "list[str]", clone: "Clone", cwd: str) -> "tuple[str, str]":
    """How the clone's files are named in a command that is run in `cwd`, and what must come before it."""
    here = _clone_at(cwd)
    if here is None or here.common_dir != clone.common_dir:
        return f"cd {_shell_quoted(clone.root)} && ", " ".join(map(_shell_quoted, names))
    real = os.path.realpath(cwd)
    paths = [os.path.relpath(f"{clone.root}/{name}", real) for name in names]
    return "", " ".join(_shell_quoted(f"./{path}" if path.startswith("-") else path) for path in paths)


def _program() -> str:
    """How `coord` is called there: hooks have its absolute path, and it need not be on PATH."""
    for folder in os.environ.get("PATH", "").split(":"):
        if folder and os.access(f"{folder}/coord", os.X_OK):
            return "coord"
    return _shell_quoted(os.path.abspath(sys.argv[0]))  # noqa: PTH100 - pathlib costs milliseconds


def _shell_quoted(text: str) -> str:
    plain = text and all(c.isalnum() or c in "/._-@+" for c in text) and text.isascii()
    return text if plain else "'" + text.replace("'", "'\\''") + "'"


# --- what an agent should know --------------------------------------------------------------------------------------------


def _brief(what: str, agent: str, me: str, cwd: str) -> str:
    clone = _clone_at(cwd)
    if clone is None:
        return dialects.allowed(agent)
    params: dict[str, Any] = {"agent": me, "idleMs": IDLE_MS, "process": session_process()}
    try:
        told = ask(socket_path(clone), "brief", params, ANSWER_S)
    except (Failed, Refused) as error:
        sys.stderr.write(f"coord: no briefing: {clean(error)}\n")
        return dialects.allowed(agent)
    lines = briefing_lines(told, me)
    if what == "session-start":
        _export(me)
        lines.insert(
            0,
            f"Other agents work on this repository too. You are {me}: files that you edit are leased to you, and edits of files "
            "that others hold are refused.",
        )
    elif lines:
        lines.insert(0, f"From other agents on this repository (you are {me}):")
    return dialects.context(agent, what, "\n".join(lines))


def briefing_lines(told: "dict[str, Any]", me: str) -> "list[str]":
    """What was lost, what was said, what would not merge, who works on what, who holds what: what matters most first."""
    lines = []
    for lost in _last(told.get("lost", [])):
        names = ", ".join(resource_name(one) for one in lost["resources"][:4])
        to = f" to {clean(lost['holder'])}" if lost.get("holder") else ""
        lines.append(f"- You lost the lease on {names}{to} ({clean(lost['reason'])}): look at it again before you write there.")
    for message in _last(told.get("messages", [])):
        about = f" about {resource_name(message['resource'])}" if message.get("resource") else ""
        asks = "asks you to release" if message["kind"] == "release" and message.get("resource") else "says"
        what = f" {resource_name(message['resource'])}" if asks.startswith("asks") else about
        id_ = message["messageId"]
        # Its author wrote the id, and an agent may run the line as it stands. Those of ours are hexadecimal.
        answer = f" (answer: {_program()} --agent {me} say --reply {id_} '…')" if id_.isascii() and id_.isalnum() else ""
        lines.append(f"- {clean(message['agentId'])} {asks}{what}: {clean(message['text'])}{answer}")
    lines += [f"- {foretold_line(one)}. Agree with them before you go on there." for one in told.get("foretold", [])[:MAX_TOLD]]
    for work in told.get("work", [])[:MAX_TOLD]:
        on = ", ".join(clean(one) for one in [*work["issues"], *work["specs"], *work["files"]][:6])
        doing = ": ".join(part for part in (on, clean(work["status"])) if part)
        lines.append(f"- {clean(work['agentId'])} works on {doing or 'something'}.")
    for lease in told.get("leases", [])[:MAX_TOLD]:
        names = ", ".join(resource_name(one) for one in lease["resources"][:4])
        note = f": {clean(lease['note'], 80)}" if lease.get("note") else ""
        if lease["state"] == "pending":
            lines.append(f"- {clean(lease['agentId'])} waits for {names}{note}.")
        else:
            lines.append(f"- {clean(lease['agentId'])} holds {names} ({shown_duration(lease['remainingMs'])} left, renewed){note}.")
    more = max(0, len(told.get("work", [])) - MAX_TOLD) + max(0, len(told.get("leases", [])) - MAX_TOLD)
    if more:
        lines.append(f"- … and {more} more: coord status")
    return lines


def _last(found: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    return found[-MAX_TOLD:]


def _export(me: str) -> None:
    """Claude Code runs what is in that file before every shell command: git hooks and `coord` then know who acts."""
    path = os.environ.get("CLAUDE_ENV_FILE")
    if path and not os.environ.get("COORD_AGENT"):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs milliseconds
            file.write(f"export COORD_AGENT={me}\n")


# --- the end --------------------------------------------------------------------------------------------------------------


def _end(what: str, me: str, cwd: str) -> None:
    clone = _clone_at(cwd)
    if clone is None or (what == "subagent-end" and "." not in me):
        return
    try:
        ask(socket_path(clone), "agent.detach", {"agent": me, "below": True}, ANSWER_S)
    except (Failed, Refused) as error:
        sys.stderr.write(f"coord: the end of {clean(me)} was not told: {clean(error)}\n")


def _clone_at(folder: str) -> "Clone | None":
    try:
        clone = find_clone(folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent must be able to work
        _told_unless_elsewhere(error, folder)
        return None
    return clone if os.path.isdir(clone.state_dir) else None  # noqa: PTH112


def _told_unless_elsewhere(error: Exception, path: str) -> None:
    """Outside of every repository, in git's own folder, or no name that could be leased: none of our business. Else a failure."""
    from sudocode_coordination.errors import CoordinationError  # after a failure there is time for it

    if not isinstance(error, CoordinationError):
        sys.stderr.write(f"coord: not checked: {clean(path)}: {type(error).__name__}: {clean(str(error))}\n")


# --- whose processes these are --------------------------------------------------------------------------------------------

_SHELL_NAMES = frozenset(("sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox", "timeout", "env", "uv"))


def session_process() -> "int | None":
    """The agent's own process: the nearest one above the hook that is no shell. None where the system does not tell at no cost."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _process(pid)
        if not name:
            return None
        if name not in _SHELL_NAMES:
            return pid
        pid = parent
    return None


def processes_above() -> "list[int]":
    """The processes above this one, the nearest first."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 1 and len(found) < 64:
        found.append(pid)
        pid = _process(pid)[1]
    return found


def _process(pid: int) -> "tuple[str, int]":
    """Name and parent of a process, by proc(5); empty and 0 where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            text = file.read(4_096)
    except OSError:
        return "", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
