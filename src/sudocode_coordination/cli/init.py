"""`coord init`: finds what is there, shows what it would write, writes it, and takes it back with `--remove`."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.askgit import git
from sudocode_coordination.cli.screen import Block, Styled
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.config import CONFIG_FILE, load_config
from sudocode_coordination.errors import ConfigError, CoordinationError, UsageError
from sudocode_coordination.hooks import git as guards
from sudocode_coordination.hooks.servers import Registration, registrations
from sudocode_coordination.hooks.settings import Integration, integrations
from sudocode_coordination.place import Clone, find_clone

EXCLUDE_BEGIN: Final = "# >>> coord init >>>"
EXCLUDE_END: Final = "# <<< coord init <<<"
_FOR_ALL: Final = ("AGENTS.md", Path(CONFIG_FILE).name)
"""Without anything of this machine in them: they may be committed."""
_BY_HAND: Final = "put it right by hand first"
_CONFIG: Final = """\
# What this repository's clones have in common. Every key: docs/configuration.md of sudocode-coordination.
# coordination_branch = "coordination"
# lease_ttl_ms = 300_000
# partition_policy = "open"
"""


class Change(NamedTuple):
    """One thing to be written, or taken back."""

    name: str
    path: Path
    what: str
    found: bool
    """Signs of whom it is for are in the repository or on PATH."""
    needed: bool
    """It is not as it should be."""
    do: Callable[[], object]


def init(session: Session, args: Namespace) -> int:
    """Offer what fits; with `--yes` write it."""
    if session.clone.work_tree is None:
        raise UsageError("a bare repository has no work tree to set up", hint="run it in a clone with a work tree")
    root = Path(session.clone.work_tree)
    changes = removals(root) if args.remove else additions(root)
    names = {change.name for change in changes}
    only = {name for text in args.only for name in text.split(",") if name}
    if only - names:
        raise UsageError(f"nothing is called {', '.join(sorted(only - names))}", hint=f"there are: {', '.join(sorted(names))}")
    chosen = [c for c in changes if c.needed and (c.name in only if only else c.found)]
    users = _other_users(root) if args.remove and not only else []
    kept = [c for c in chosen if users and _is_shared(session.clone, c)]
    chosen = [c for c in chosen if c not in kept]
    left = [c for c in changes if c.needed and c not in chosen and not args.remove]
    document = {
        "changes": [{"name": c.name, "path": str(c.path), "what": c.what} for c in chosen],
        "inPlace": sorted({c.name for c in changes if not c.needed}),
        "notFound": sorted({c.name for c in left}),
        "kept": [{"name": c.name, "path": str(c.path), "usedIn": [str(tree) for tree in users]} for c in kept],
    }
    lines: list[Block] = [] if args.remove else _remotes(root)
    lines += [f"{clean(c.name)}: kept, {clean(users[0])} is set up with it too: {clean(c.path)}" for c in kept]
    if kept:
        lines.append(Styled("it goes with the last work tree, or with coord guard remove", "dim"))
    lines += [f"{clean(c.name)}: {c.what}: {clean(c.path)}" for c in chosen]
    if left:
        why, how = ("", "") if only else ("not found here, and ", " (--only NAME)")
        lines.append(Styled(f"{why}left out: {', '.join(sorted({c.name for c in left}))}{how}", "dim"))
    if not chosen:
        nothing = f"nothing {'else ' if kept else ''}of ours is there" if args.remove else "nothing to do: all is in place"
        session.screen.show({**document, "written": False}, [*lines, nothing])
        return 0
    if args.dry_run or not (args.yes or _agreed(session, lines)):
        session.screen.show({**document, "written": False}, [*lines, "nothing was written; --yes writes it"])
        return 0
    failed, shown = _carry_out(chosen), len(lines)
    if not args.remove:
        tracked = [c.path for c in chosen if _is_tracked(root, c.path)]
        _exclude(root, [c.path for c in chosen if c.path not in tracked])
        here = sorted({str(path.relative_to(root)) for path in tracked if path.name not in _FOR_ALL})
        if here:
            lines.append(Styled(f"with paths of this machine now, and tracked by git: {clean(', '.join(here))}", "yellow"))
    elif not only and not users:
        _exclude(root, None)
    done = f"{len(chosen) - len(failed)} of {len(chosen)} " + ("taken back" if args.remove else "written")
    next_step = [] if args.remove else ["next: coord start, then coord doctor"]
    told = lines if args.yes else lines[shown:]
    session.screen.show({**document, "written": True, "failed": failed}, [*told, *failed, done, *next_step])
    return 1 if failed else 0


def additions(root: Path) -> list[Change]:
    """All that could be written, in order."""
    config, about = root / CONFIG_FILE, "the configuration that clones share, all commented out"
    found = [Change("config", config, about, True, not config.exists(), partial(_write, config, _CONFIG))]
    for place in guards.places(root):
        others = ", for all repositories with these hooks" if guards.is_everybodys(place, find_clone(root)) else ""
        what, do = f"check leases in {place.hook}{others}", partial(guards.install, place)
        found.append(Change("guards", place.path, what, True, not place.is_current, do))
    present = set()
    for one in integrations(root, guards.program()):
        if any(shutil.which(sign[1:]) if sign.startswith("!") else (root / sign).exists() for sign in one.signs):
            present.add(one.name)
        what = "add hooks" if one.name != "agents.md" else "add a block that tells agents of coord"
        found.append(Change(one.name, one.path, what, one.name in present, _is_wanted(one), partial(_put_in, root, one)))
    for server in registrations(root, guards.program()):
        there, wanted = server.name in present, _is_wanted(server)
        found.append(Change(server.name, server.path, "add the MCP server", there, wanted, partial(_put_in, root, server)))
    return found


def removals(root: Path) -> list[Change]:
    """All of ours that is there."""
    found = []
    for place in guards.places(root):
        ours = place.state in ("ours", "guarded")
        found.append(Change("guards", place.path, f"take the check out of {place.hook}", True, ours, partial(guards.remove, place)))
    files: dict[Path, list[Integration | Registration]] = {}
    parts: list[Integration | Registration] = [*integrations(root, guards.program()), *registrations(root, guards.program())]
    for one in parts:
        files.setdefault(one.path, []).append(one)
    for path, inside in files.items():
        try:
            text = rest = _read(path)
        except CoordinationError:
            continue  # we did not write that
        for part in inside:
            try:
                rest = part.without(rest) if rest is not None else None
            except CoordinationError:
                break  # we did not write that either
        if text is not None:
            found.append(Change(inside[0].name, path, "take ours out", True, rest != text, partial(_write, path, rest)))
    config = root / CONFIG_FILE
    if _bytes(config) == _CONFIG.encode():
        found.append(Change("config", config, "remove it: nothing is set in it", True, True, partial(_write, config, None)))
    return found


def _other_users(root: Path) -> list[Path]:
    """Other work trees of the repository that are set up: what they share with this one is theirs too."""
    found = []
    listed = git(str(root), "worktree", "list", "--porcelain", "-z")
    # Before git 2.36 there is no -z.
    lines = listed.text.split("\0") if listed.ok else git(str(root), "worktree", "list", "--porcelain").text.split("\n")
    for tree in (Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")):
        if not (tree / ".git").exists() or tree.resolve() == root.resolve():
            continue
        # What is committed came with the checkout.
        own = (c.path for c in removals(tree) if c.needed and c.name != "guards")
        if any(not _is_tracked(tree, path) or not git(str(tree), "diff", "--quiet", "HEAD", "--", str(path)).ok for path in own):
            found.append(tree)
    return found


def _is_shared(clone: Clone, change: Change) -> bool:
    """Git's hooks are, unless `core.hooksPath` names a folder of the work tree."""
    inside = change.path.is_relative_to(Path(clone.root).resolve()) and not change.path.is_relative_to(clone.common_dir)
    return change.name == "guards" and not inside


def _is_wanted(one: Integration | Registration) -> bool:
    try:
        text = _read(one.path)
        return one.wanted(text) != text
    except CoordinationError:
        return True  # told when it is tried


def _put_in(root: Path, one: Integration | Registration) -> None:
    if not one.path.resolve().is_relative_to(root.resolve()):  # whoever wrote the repository chose where
        raise CoordinationError("it is a link that leads out of the repository", hint="remove the link first")
    _write(one.path, one.wanted(_read(one.path)))


def _carry_out(chosen: Sequence[Change]) -> list[str]:
    failed = []
    for change in chosen:
        try:
            change.do()
        except CoordinationError as error:
            failed.append(f"{change.name}: {change.path}: {error.message} ({error.hint})")
        except OSError as error:
            failed.append(f"{change.name}: {change.path}: {error.strerror or error}")
    return failed


def _agreed(session: Session, lines: Sequence[Block]) -> bool:
    """What a person at a terminal says; nobody at a pipe is asked."""
    if session.screen.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    for line in lines:
        session.screen.line(str(line))
    sys.stdout.write("write this? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remotes(root: Path) -> list[Block]:
    remotes = git(str(root), "remote").text.split()
    if not remotes:
        return [Styled("no git remote: others are found through one (git remote add origin URL)", "yellow")]
    try:
        wanted = load_config(root).git_remote
    except ConfigError as error:
        return [Styled(f"{clean(error.message)} ({clean(error.hint)})", "yellow")]
    if wanted not in remotes:
        return [Styled(f"no remote {clean(wanted)}, there is {clean(remotes[0])}: set git_remote in {CONFIG_FILE}", "yellow")]
    return []


def _bytes(path: Path) -> bytes | None:
    """None: there is no such file."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _read(path: Path) -> str | None:
    """None: it is not there. Its lines end in a newline alone, where all end in a carriage return as well.

    Raises:
        CoordinationError: it is there, and can't be read as text; what is taken for empty would be written over.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CoordinationError(error.strerror or str(error), hint=_BY_HAND) from None
    except UnicodeDecodeError:
        raise CoordinationError("it is no UTF-8 text", hint=_BY_HAND) from None
    return text.replace("\r\n", "\n") if _has_crlf(data) else text


def _has_crlf(data: bytes | None) -> bool:
    return data is not None and 0 < data.count(b"\n") == data.count(b"\r\n")


def _write(path: Path, text: str | None, errors: str = "strict") -> None:
    """In one step, with the line ends that it has; None: it goes, and folders that are empty then."""
    if text is None:
        path.unlink()
        for folder in (path.parent, path.parent.parent):
            if folder.name.startswith(".") or folder.parent.name.startswith("."):
                try:
                    folder.rmdir()
                except OSError:
                    return
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()
    data = (text.replace("\n", "\r\n") if _has_crlf(_bytes(target)) else text).encode("utf-8", errors)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        if target.exists():
            shutil.copymode(target, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _is_tracked(root: Path, path: Path) -> bool:
    return git(str(root), "ls-files", "--error-unmatch", "--", str(path)).ok


def _exclude(root: Path, paths: Sequence[Path] | None) -> None:
    """Files with this machine's paths in them are not for the repository: git is told to overlook those that are new. None: it is
    told no more."""
    answer = git(str(root), "rev-parse", "--git-path", "info/exclude")
    if not answer.ok:
        return
    file = Path(root, answer.text)
    text = (_bytes(file) or b"").decode("utf-8", "surrogateescape")  # names in it may be of any encoding
    before, begin, rest = text.partition(EXCLUDE_BEGIN + "\n")
    old, _, after = rest.partition(EXCLUDE_END + "\n")
    names = set(old.splitlines()) if begin else set()
    if paths is None:
        if begin:
            _write(file, before + after, "surrogateescape")
        return
    inside = [path.relative_to(root) for path in paths if path.is_relative_to(root)]
    names |= {f"/{path.as_posix()}" for path in inside if path.parts[0] != ".git" and path.name not in _FOR_ALL}
    if names:
        block = "\n".join((EXCLUDE_BEGIN, *sorted(names), EXCLUDE_END, ""))
        _write(file, (before if not before or before.endswith("\n") else before + "\n") + block + after, "surrogateescape")
