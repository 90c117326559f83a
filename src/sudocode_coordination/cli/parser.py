"""The grammar of the command line. What the words do is in `commands.py` and its neighbours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from sudocode_coordination import __version__
from sudocode_coordination.cli.arguments import duration, port, priority
from sudocode_coordination.errors import UsageError
from sudocode_coordination.hooks.dialects import AGENTS, EVENTS
from sudocode_coordination.model import RESOURCE_TYPES

_EPILOG: Final = """\
examples:
  coord start                                start this clone's daemon
  coord lease src/auth.py --note "refactor"  take a file; exit code 3 says that another has it
  coord lease src/auth.py --wait 10m         … or wait for it
  coord check src/auth.py src/db.py          does anybody hold or work on these?
  coord work set --issue '#42' --file src/auth.py --status "Token refresh"
  coord status                               everything on one screen
  coord demo                                 see three clones work together, in under 30 s

exit codes: 0 done, 1 failed, 2 usage, 3 held by another, 4 no daemon.
`coord help COMMAND` explains a command. --json works on every command that shows something."""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of leaving the process, so that errors look the same everywhere (also as JSON)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        words = self.prog.split()
        raise UsageError(message, hint=f"`{' '.join([words[0], 'help', *words[1:]])}` explains how it is used")


def build_parser(prog: str = "coord") -> Parser:
    """The whole grammar; `prog` is how we were called."""
    parser = Parser(
        prog=prog,
        description="See what other agents and people work on in this repository, and lease what you touch.",
        epilog=_EPILOG.replace("coord ", f"{prog} ") if prog != "coord" else _EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"coord {__version__}")
    _add_common(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_daemon_commands(commands)
    _add_lease_commands(commands)
    _add_state_commands(commands)
    _add_integrations(commands)
    _add_other_commands(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: they are accepted before and after the command, and a default in the second place must not undo the first.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document on standard output")
    parser.add_argument(
        "--agent",
        metavar="ID",
        default=argparse.SUPPRESS,
        help="which agent of this clone acts (or COORD_AGENT); else the daemon's",
    )


def _command(commands: Any, name: str, summary: str, *, run: str | None = None, examples: Sequence[str] = ()) -> Parser:
    epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
    parser: Parser = commands.add_parser(name, help=summary, description=summary, epilog=epilog)
    _add_common(parser)
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def _add_daemon_commands(commands: Any) -> None:
    start = _command(
        commands,
        "start",
        "start the clone's daemon; returns when it is active",
        run="start",
        examples=[
            "coord start",
            "coord start --agent-id alice --capabilities code,review",
            "coord start --listen /ip4/0.0.0.0/tcp/4001 --set lease_ttl_ms=600000",
        ],
    )
    start.add_argument("--agent-id", metavar="ID", help="the default agent of this clone (generated and kept if not given)")
    start.add_argument("--capabilities", metavar="A,B", action="append", help="what the agent offers (code,review,test)")
    start.add_argument("--branch", metavar="B", help="coordination branch (coordination)")
    start.add_argument("--remote", metavar="R", help="git remote that introduces the peers (origin)")
    start.add_argument("--listen", metavar="ADDR", action="append", help="libp2p address to listen on; may be repeated")
    start.add_argument("--announce", metavar="ADDR", action="append", help="address to publish instead of the interfaces' own")
    start.add_argument("--lease-ttl", metavar="DUR", type=duration, help="of a lease that names none (5m)")
    start.add_argument("--discovery-interval", metavar="DUR", type=duration, help="between two looks at the branch (1m)")
    start.add_argument("--heartbeat", metavar="DUR", type=duration, help="between two presence beats (15s)")
    start.add_argument("--partition-policy", choices=("open", "majority", "closed"), help="leases without a majority (open)")
    start.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any other configuration key")
    start.add_argument("--foreground", action="store_true", help="stay in this process until it is interrupted")
    start.add_argument("--timeout", metavar="DUR", type=duration, default=30_000, help="how long to wait until it is active (30s)")
    stop = _command(commands, "stop", "release all leases, remove the peer record, stop the daemon", run="stop")
    stop.add_argument("--timeout", metavar="DUR", type=duration, default=30_000, help="how long to wait for it (30s)")
    rotate = _command(
        commands,
        "rotate-key",
        "give this clone a new key and peer id; leases are released, a running daemon is started again",
        run="rotate-key",
        examples=["coord rotate-key", "coord rotate-key --json        the old and the new peer id, for allowed_peers"],
    )
    rotate.add_argument("--timeout", metavar="DUR", type=duration, default=30_000, help="how long to wait for each step (30s)")
    _command(commands, "status", "state, agents, peers, active work, leases, git remote", run="status")
    _command(commands, "peers", "who else is there, and how they are connected", run="peers")


def _add_lease_commands(commands: Any) -> None:
    lease = _command(
        commands,
        "lease",
        "take a lease on one or several resources: all of them or none",
        run="lease",
        examples=[
            "coord lease src/auth.py",
            "coord lease src/auth.py src/db.py --ttl 20m --note 'one refactoring'",
            "coord lease '#42' --type issue        (the same: coord lease issue:#42)",
            "coord lease src/auth.py --wait        wait without limit; --wait 10m: that long",
            "coord lease src/auth.py --priority 9  takes it over from a lower priority",
        ],
    )
    # "*" and not "+": `--wait src/a.py` is read as a duration first and given back to the resources later.
    lease.add_argument("resources", metavar="RESOURCE", nargs="*", help="a path, or an id with --type (or as TYPE:ID)")
    _add_type(lease)
    lease.add_argument("--priority", metavar="N", type=priority, default=0, help="a higher one takes over from a lower one (0)")
    lease.add_argument(
        "--ttl", metavar="DUR", type=duration, help="how long it lasts without renewal, which the daemon does (5m; strict: 15m)"
    )
    lease.add_argument("--shared", action="store_true", help="others may hold it shared too")
    lease.add_argument("--strict", action="store_true", help="decided by the git remote, with a fencing token (see `coord push`)")
    lease.add_argument("--wait", metavar="DUR", nargs="?", const="", help="wait until it is free, that long at most")
    lease.add_argument("--note", metavar="TEXT", default="", help="what for; others see it")
    renew = _command(commands, "renew", "start the ttl of own leases anew", run="renew")
    renew.add_argument("resources", metavar="RESOURCE", nargs="+")
    _add_type(renew)
    renew.add_argument("--ttl", metavar="DUR", type=duration, help="another ttl than before")
    release = _command(commands, "release", "give own leases back", run="release")
    release.add_argument("resources", metavar="RESOURCE", nargs="*")
    _add_type(release)
    release.add_argument("--all", action="store_true", help="all that the agent holds or waits for")
    release.add_argument("--to-shared", action="store_true", help="keep them, shared: let readers in, and no writer")
    release.add_argument("--commit", metavar="REV", help="what the next holder builds on (the last one here that touched it)")
    release.add_argument("--no-commit", action="store_true", help="leave nothing behind")
    leases = _command(
        commands,
        "leases",
        "own leases; with --all everyone's, and who waits",
        run="leases",
        examples=[
            "coord leases --all                                  who holds what, and who waits",
            "coord leases --history src/auth.py                  who held it when",
            "coord leases --history src/ --at 2026-01-31T14:05   who held what lies in there then",
        ],
    )
    leases.add_argument("--all", action="store_true", help="everyone's")
    leases.add_argument(
        "--history", metavar="RESOURCE", nargs="?", const=True, help="who held this when; of everything, without one"
    )
    leases.add_argument("--at", metavar="TIME", help="with --history: who held it then")
    _add_type(leases)
    push = _command(
        commands,
        "push",
        "push the branch and the strict leases in one atomic push: a stale holder is refused",
        run="push",
        examples=["coord push", "coord push origin feature/login", "coord push -u origin HEAD"],
    )
    # Only for `coord help`: `run.py` hands everything that is not ours to git as it stands.
    push.add_argument("arguments", metavar="ARGUMENT", nargs="*", help="arguments of `git push`")
    check = _command(
        commands,
        "check",
        "who else holds these, works on them, or has changes in them that would not merge; exit code 3 if somebody does",
        run="check",
        examples=["coord check src/auth.py", "coord check src/auth.py --issue '#42' --spec specs/auth.md"],
    )
    check.add_argument("paths", metavar="PATH", nargs="*")
    check.add_argument("--issue", metavar="ID", action="append", default=[], help="may be repeated")
    check.add_argument("--spec", metavar="PATH", action="append", default=[], help="may be repeated")
    _command(
        commands,
        "conflicts",
        "changes here and elsewhere that would not merge, committed or not",
        run="conflicts",
        examples=["coord conflicts", "coord conflicts --agent alice      hers alone"],
    )


def _add_type(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", choices=RESOURCE_TYPES, help="what RESOURCE names (file, unless written as TYPE:ID)")


def _add_state_commands(commands: Any) -> None:
    work = _group(commands, "work", "tell others what you work on, and see what they do")
    set_ = _command(
        work,
        "set",
        "tell what the agent works on; replaces what was told before",
        run="work set",
        examples=["coord work set --issue '#42' --file src/auth.py --status 'Token refresh' --meta branch=feature/oauth"],
    )
    for option, what in (("--issue", "ID"), ("--spec", "PATH"), ("--file", "PATH")):
        set_.add_argument(option, metavar=what, action="append", default=[], help="may be repeated")
    set_.add_argument("--status", metavar="TEXT", default="", help="in your own words")
    set_.add_argument("--meta", metavar="KEY=VALUE", action="append", default=[], help="anything else; JSON or text")
    _command(work, "clear", "the agent works on nothing", run="work clear")
    _command(work, "show", "what everyone works on; with --agent that one", run="work show")

    issue = _group(commands, "issue", "live, uncommitted fields of issues")
    update = _command(
        issue,
        "update",
        "write live fields of an issue",
        run="issue update",
        examples=["coord issue update '#42' --status in-progress --set checklist='{\"token-refresh\": true}'"],
    )
    update.add_argument("id", metavar="ID")
    _add_fields(update)
    _command(issue, "show", "the live fields of one issue, or of all", run="issue show").add_argument("id", metavar="ID", nargs="?")

    spec = _group(commands, "spec", "live, uncommitted fields of specs")
    update = _command(
        spec,
        "update",
        "write live fields of a spec",
        run="spec update",
        examples=["coord spec update specs/auth.md --title 'Auth, second try' --draft"],
    )
    update.add_argument("path", metavar="PATH")
    _add_fields(update)
    _command(spec, "show", "the live fields of one spec, or of all", run="spec show").add_argument(
        "path", metavar="PATH", nargs="?"
    )

    draft = _group(commands, "draft", "updates that only this clone knows")
    _command(draft, "list", "the agent's unpublished updates", run="draft list")
    publish = _command(draft, "publish", "make drafts live updates", run="draft publish")
    publish.add_argument("ids", metavar="DRAFT", nargs="*", help="which (see `coord draft list`)")
    publish.add_argument("--all", action="store_true", help="all of the agent's")

    drop = _command(draft, "drop", "forget drafts", run="draft drop")
    drop.add_argument("ids", metavar="DRAFT", nargs="*", help="which (see `coord draft list`)")
    drop.add_argument("--all", action="store_true", help="all of the agent's")
    commit = _command(
        draft,
        "commit",
        "write drafts and live updates into the repository's issue and spec files, as a commit on a branch",
        run="draft commit",
        examples=[
            "coord draft commit --branch specs/token-refresh               all there is",
            "coord draft commit --branch triage '#42' -m 'Triage of #42'   this issue alone",
        ],
    )
    commit.add_argument("targets", metavar="TARGET", nargs="*", help="drafts, issue ids or spec paths; all without any")
    commit.add_argument(
        "--branch", metavar="B", required=True, help="made from HEAD if it is not there; not one that is checked out"
    )
    commit.add_argument("-m", "--message", metavar="TEXT", help="of the commit")
    commit.add_argument("--clear", action="store_true", help="take the own live values back that are committed now")
    _add_message_commands(commands)
    events = _command(
        commands,
        "events",
        "the event stream, one JSON document a line",
        run="events",
        examples=["coord events                the recent ones", "coord events --follow       … and what comes, until Ctrl-C"],
    )
    _command(
        commands,
        "watch",
        "live view on the terminal: agents, work, leases with time left, who waits, conflicts, messages, events",
        run="watch",
        examples=[
            "coord watch                 1 to 7: the lists; Enter: all about a row; ?: the keys; q: leave",
            "coord --agent bob watch     release and write as bob, an agent of this clone",
            "coord watch --json          all of it once, as one JSON document",
        ],
    )
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens")
    events.add_argument("--last", metavar="N", type=_count, default=100, help="recent ones first, at most N (100; 0 to 1000)")


def _add_message_commands(commands: Any) -> None:
    say = _command(
        commands,
        "say",
        "say something to other agents: some, all on a resource, or everybody",
        run="say",
        examples=[
            "coord say 'tests are red on main, do not merge'      to everybody",
            "coord say --to bob 'your branch is in'               to one; --to may be repeated",
            "coord say --on src/auth/ 'I am about to move it'     to all who hold, wait for or work on it",
            "coord say --reply 3f09c1a27b 'in ten minutes'        to who sent that",
        ],
    )
    say.add_argument("text", metavar="TEXT")
    say.add_argument("--to", metavar="AGENT", action="append", default=[], help="for whom; may be repeated")
    say.add_argument("--on", metavar="RESOURCE", help="for all on it; with --to: what it is about")
    say.add_argument("--reply", metavar="MESSAGE", help="the message that it answers")
    say.add_argument("--ttl", metavar="DUR", type=duration, help="how long it is shown to who has not read it (1h; 24h at most)")
    _add_type(say)
    ask = _command(
        commands,
        "ask",
        "ask whoever holds a resource to release it",
        run="ask",
        examples=["coord ask src/auth.py", "coord ask src/auth.py 'I only need the imports'"],
    )
    ask.add_argument("resource", metavar="RESOURCE")
    ask.add_argument("text", metavar="TEXT", nargs="?")
    ask.add_argument("--ttl", metavar="DUR", type=duration, help="how long the question stands (1h; 24h at most)")
    _add_type(ask)
    messages = _command(
        commands,
        "messages",
        "what others have said to this agent",
        run="messages",
        examples=["coord messages", "coord messages --ack              read; its sender sees that", "coord messages --all"],
    )
    messages.add_argument("--all", action="store_true", help="also what has been read, and own ones")
    messages.add_argument("--ack", metavar="MESSAGE", nargs="*", help="these, or without any all, have been read")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1000")
    return int(text)


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", metavar="TEXT")
    parser.add_argument("--status", metavar="TEXT")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any field; JSON or text, null takes it back"
    )
    parser.add_argument("--draft", action="store_true", help="keep it in this clone until `coord draft publish`")


def _group(commands: Any, name: str, summary: str) -> Any:
    parser = commands.add_parser(name, help=summary, description=summary)
    _add_common(parser)
    return parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)


def _add_integrations(commands: Any) -> None:
    init = _command(
        commands,
        "init",
        "find the agents, hooks and remotes that are there, and set them up; asks before it writes",
        run="init",
        examples=[
            "coord init                       shows what it would write, and asks",
            "coord init --yes                 writes it",
            "coord init --only claude,guards  these alone",
            "coord init --remove --yes        takes back all that it wrote",
        ],
    )
    init.add_argument("--yes", action="store_true", help="write without asking")
    init.add_argument("--dry-run", action="store_true", help="only show it")
    init.add_argument("--remove", action="store_true", help="take back what was written")
    init.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="these, found or not: config, guards, agents.md, …"
    )
    hook = _command(
        commands,
        "hook",
        "called by coding agents: before an edit, at the start of a session, at each prompt, at the end",
        examples=["coord hook pre-tool --for codex < event.json", "coord init                writes it into the agents' settings"],
    )
    # Only for `coord help`: `entry.py` runs it without this parser, which costs more than all of it.
    hook.add_argument("event", choices=EVENTS, metavar="EVENT", help=", ".join(EVENTS))
    hook.add_argument("--for", dest="for_", choices=AGENTS, metavar="AGENT", help=f"{', '.join(AGENTS)} (as the event looks)")
    mcp = _command(
        commands,
        "mcp",
        "tools of coordination for coding agents: a Model Context Protocol server on standard input and output",
        run="mcp",
        examples=[
            "coord mcp                      an MCP client starts it in the repository",
            "coord mcp --repo ~/src/shop    … or anywhere",
        ],
    )
    mcp.add_argument("--repo", metavar="DIR", help="a folder of the clone (the current one)")
    ui = _command(
        commands,
        "ui",
        "a local web page that shows who does what, live; until Ctrl-C",
        run="ui",
        examples=[
            "coord ui                         opens it in the browser",
            "coord ui --no-open --port 8123   only shows the link; for ssh -L 8123:127.0.0.1:8123",
            "coord ui --json                  the link as JSON, for programs; nothing is opened",
        ],
    )
    ui.add_argument("--port", metavar="N", type=port, default=0, help="on 127.0.0.1 and ::1 (any that is free)")
    ui.add_argument("--no-open", action="store_true", help="start no browser")
    bridge = _command(
        commands,
        "bridge",
        "the shared document for JavaScript clients: Yjs over the y-websocket protocol, on this machine only, read-only",
        run="bridge",
        examples=[
            "coord bridge                                  until Ctrl-C; bridge.json in its state folder says how to get in",
            "coord bridge --origin http://localhost:5173   for a web page that is served there, too",
        ],
    )
    bridge.add_argument("--port", metavar="N", type=port, default=0, help="where to listen on 127.0.0.1 (a free one)")
    bridge.add_argument(
        "--origin", metavar="URL", action="append", default=[], help="a web page that may connect; without it none may (repeatable)"
    )
    guard = _group(commands, "guard", "git hooks that refuse to commit and push what another agent has leased")
    _command(guard, "install", "put the checks in front of the repository's pre-commit and pre-push hooks", run="guard install")
    _command(guard, "remove", "take them away; what was there before is as it was", run="guard remove")
    check = _command(
        guard,
        "check",
        "whether files are leased by another agent, or a strict lease of one's own is lost; exit code 3 if so",
        run="guard check",
        examples=["coord guard check src/auth.py", "coord guard check --base origin/main      what this branch changes"],
    )
    check.add_argument("paths", metavar="PATH", nargs="*", help="files; with --hook pre-push: what git passes to that hook")
    check.add_argument("--base", metavar="REV", help="all that has changed since the branch left it")
    check.add_argument("--hook", choices=("pre-commit", "pre-push"), help="as git's hook of that name calls it")


def _add_other_commands(commands: Any) -> None:
    doctor = _command(commands, "doctor", "look for what keeps peers from meeting, and say what to do", run="doctor")
    doctor.add_argument("--remote", metavar="R", help="git remote to look at (the daemon's, else as configured)")
    doctor.add_argument("--branch", metavar="B", help="coordination branch to look at (the daemon's, else as configured)")
    doctor.add_argument("--published", action="store_true", help="show what this clone publishes now, where, and for whom")
    _command(commands, "demo", "three clones of a fresh repository meet, contend and hand over, on this machine", run="demo")
    completion = _command(
        commands,
        "completion",
        "write the script by which a shell completes commands and options",
        run="completion",
        examples=[
            "coord completion bash > ~/.local/share/bash-completion/completions/coord",
            "coord completion zsh > ~/.zfunc/_coord         with fpath=(~/.zfunc $fpath) before compinit",
            "coord completion fish > ~/.config/fish/completions/coord.fish",
        ],
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    # Only for `coord help`: `run.py` hands everything after these two to programs of their own as it stands.
    _command(commands, "replay", "how well a history's conflicts would have been foretold (coord replay --help)", run="replay")
    _command(commands, "sim", "run the simulator's seeds, or replay one (its own options: coord sim --help)", run="sim")
    help_ = _command(commands, "help", "explain a command", run="help")
    help_.add_argument("words", metavar="COMMAND", nargs="*")
