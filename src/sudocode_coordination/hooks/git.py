"""Git's own hooks: where they are, and how a check is put in front of what is there already, and taken away again.

A marked block is put behind the first line of a hook that is a shell script; a hook that is something else is kept beside it under
another name, and run by ours. Laws: what was there runs as before, with its arguments and its standard input; putting it in twice
is the same as once; taking it away leaves the files as they were.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from sudocode_coordination.askgit import git
from sudocode_coordination.errors import CoordinationError

Hook: TypeAlias = Literal["pre-commit", "pre-push"]
HOOKS: Final[tuple[Hook, ...]] = get_args(Hook)
BEGIN: Final = "# >>> coord guard >>>"
END: Final = "# <<< coord guard <<<"
KEPT: Final = ".before-coord-guard"
"""Behind the name of a hook that is no shell script."""
_SHELLS: Final = ("sh", "bash", "dash", "zsh", "ksh", "ash")
_PLAIN: Final = "#!/bin/sh\n"
_MAX_HOOK_BYTES: Final = 1 << 20


class Place(NamedTuple):
    """A hook of a repository."""

    hook: Hook
    path: Path
    state: Literal["absent", "ours", "guarded", "other"]
    """ours: there is nothing but our block; guarded: our block is in it; other: it is somebody else's."""


def program() -> str:
    """This command by its absolute path: hooks run with any PATH."""
    beside = Path(sys.executable).with_name("coord")
    return str(beside if beside.is_file() else Path(sys.argv[0]).absolute())


def places(folder: str | os.PathLike[str]) -> list[Place]:
    """The hooks of the repository, as `core.hooksPath` and linked worktrees have them.

    Raises:
        CoordinationError: git does not say where they are.
    """
    answer = git(os.fspath(folder), "rev-parse", "--git-path", "hooks")
    if not answer.ok:
        raise CoordinationError(f"git does not say where hooks are: {answer.error}", hint="run it in a git repository")
    where = Path(folder, answer.text).resolve()
    if where.name == "_" and where.parent.name == ".husky":
        where = where.parent  # husky makes what is in `_` anew at each install, and calls these
    return [_place(hook, where / hook) for hook in HOOKS]


def _place(hook: Hook, path: Path) -> Place:
    text = _read(path)
    if text is None:
        return Place(hook, path, "absent")
    if BEGIN not in text:
        return Place(hook, path, "other")
    return Place(hook, path, "ours" if _without_block(text).strip() in ("", _PLAIN.strip()) else "guarded")


def install(place: Place) -> str:
    """Put the check in front; what was done, in words.

    Raises:
        CoordinationError: the file can't be read or written.
    """
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        text = _read(place.path)
        kept = place.path.with_name(place.path.name + KEPT)
        if text is None and (place.path.exists() or place.path.is_symlink()):
            return _beside(place, kept)
        before = _without_block(text or _PLAIN)
        if not _is_shell(before):
            return _beside(place, kept)
        first, _, rest = before.partition("\n")
        block = _block(place.hook, kept if kept.exists() else None)
        _write(place.path, f"{first}\n{block}{rest}")
    except OSError as error:
        raise CoordinationError(f"{place.path}: {error.strerror or error}", hint="check who may write there") from None
    return f"{place.path}: " + ("put in front of what is there" if before.strip() != _PLAIN.strip() else "written")


def remove(place: Place) -> str | None:
    """Take the check away; what was done, None if it was not there.

    Raises:
        CoordinationError: the file can't be read or written.
    """
    if place.state not in ("ours", "guarded"):
        return None
    kept = place.path.with_name(place.path.name + KEPT)
    try:
        if kept.exists() or kept.is_symlink():
            kept.replace(place.path)
            return f"{place.path}: as it was"
        text = _without_block(_read(place.path) or "")
        if text.strip() in ("", _PLAIN.strip()):
            place.path.unlink()
            return f"{place.path}: removed"
        _write(place.path, text)
    except OSError as error:
        raise CoordinationError(f"{place.path}: {error.strerror or error}", hint="check who may write there") from None
    return f"{place.path}: as it was"


def _beside(place: Place, kept: Path) -> str:
    if kept.exists():
        raise CoordinationError(f"{kept} is there already", hint="remove it, if it is of no use any more")
    place.path.rename(kept)
    _write(place.path, _PLAIN + _block(place.hook, kept))
    return f"{place.path}: written; what was there is {kept.name}, and runs after it"


def _block(hook: Hook, kept: Path | None) -> str:
    check = f'{shlex.quote(program())} guard check --hook {hook} "$@"'
    if hook == "pre-push":  # git tells what is pushed on standard input, and what comes behind wants to read it too
        lines = [
            "coord_pushed=$(cat)",
            f"printf '%s\\n' \"$coord_pushed\" | {check} || exit $?",
            "exec <<COORD_PUSHED",
            "$coord_pushed",
            "COORD_PUSHED",
        ]
    else:
        lines = [f"{check} || exit $?"]
    if kept is not None:
        lines.append(f'exec {shlex.quote(str(kept))} "$@"')
    return "\n".join((BEGIN, *lines, END, ""))


def _without_block(text: str) -> str:
    before, begin, rest = text.partition(BEGIN + "\n")
    if not begin:
        return text
    return before + rest.partition(END + "\n")[2]


def _is_shell(text: str) -> bool:
    first = text.partition("\n")[0]
    if not first.startswith("#!"):
        return True  # git runs it with sh
    words = first[2:].split()
    name = Path(words[0]).name if words else ""
    if name == "env":
        name = next((word for word in words[1:] if not word.startswith("-")), "")
    return name in _SHELLS


def _read(path: Path) -> str | None:
    """Its text; None if there is none, or it is no text."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_HOOK_BYTES:
            return None
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _write(path: Path, text: str) -> None:
    """In one step, executable, through a link that may be there."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o755
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text, "utf-8")
    fresh.chmod(mode | 0o111)
    fresh.replace(target)
