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
from sudocode_coordination.place import Clone

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
    is_current: bool = False
    """Our block is in it, as this program writes it."""


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


def is_everybodys(place: Place, clone: Clone) -> bool:
    """It is in a folder that belongs to no repository alone: `core.hooksPath` in the user's own configuration."""
    return not (place.path.is_relative_to(clone.common_dir) or place.path.is_relative_to(Path(clone.root).resolve()))


def _place(hook: Hook, path: Path) -> Place:
    text = _read(path)
    if text is None:
        return Place(hook, path, "absent")
    if BEGIN not in text:
        return Place(hook, path, "other")
    current = _block(hook, _kept_by(text, path)) in text and _is_run(path)
    return Place(hook, path, "ours" if _without_block(text).strip() in ("", _PLAIN.strip()) else "guarded", current)


def install(place: Place) -> str:
    """Put the check in front; what was done, in words.

    Raises:
        CoordinationError: the file can't be read or written.
    """
    path = place.path
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise CoordinationError(f"hooks are switched off: {path.parent} is no folder", hint="see git config core.hooksPath")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _read(path)
        if text is None and (path.exists() or path.is_symlink()):
            return _beside(place)
        before = _without_block(text or _PLAIN)
        is_plain = before.strip() in ("", _PLAIN.strip())
        if not is_plain and (not _is_shell(before) or not _is_run(path)):
            if before != text:
                _write(path, before)
            return _beside(place)
        block = _block(place.hook, _kept_by(text or "", path))
        first, _, rest = before.partition("\n")
        _write(path, f"{first}\n{block}{rest}" if first.startswith("#!") else block + before, executable=is_plain)
    except OSError as error:
        raise CoordinationError(f"{path}: {error.strerror or error}", hint="check who may write there") from None
    return f"{path}: " + ("written" if is_plain else "put in front of what is there")


def remove(place: Place) -> str | None:
    """Take the check away; what was done, None if it was not there.

    Raises:
        CoordinationError: the file can't be read or written, or both it and what was there before have something in it.
    """
    if place.state not in ("ours", "guarded"):
        return None
    try:
        text = _read(place.path) or ""
        kept, rest = _kept_by(text, place.path), _without_block(text)
        if kept is not None:
            if rest.strip() not in ("", _PLAIN.strip()):
                hint = f"what was there before is {kept.name}: put them together by hand"
                raise CoordinationError(f"{place.path} has more in it than the check", hint=hint)
            kept.replace(place.path)
            return f"{place.path}: as it was"
        if rest.strip() in ("", _PLAIN.strip()):
            place.path.unlink()
            return f"{place.path}: removed"
        _write(place.path, rest)
    except OSError as error:
        raise CoordinationError(f"{place.path}: {error.strerror or error}", hint="check who may write there") from None
    return f"{place.path}: as it was"


def _beside(place: Place) -> str:
    kept = _kept(place.path)
    if kept.exists() or kept.is_symlink():
        raise CoordinationError(f"{kept} is there already", hint="remove it, if it is of no use any more")
    place.path.rename(kept)
    _write(place.path, _PLAIN + _block(place.hook, kept), executable=True)
    after = "and runs after it" if _is_run(kept) else "switched off as before: it is not executable"
    return f"{place.path}: written; what was there is {kept.name}, {after}"


def _kept(path: Path) -> Path:
    return path.with_name(path.name + KEPT)


def _kept_by(text: str, path: Path) -> Path | None:
    """What was there before, if the block in the hook's text stands for it: another of that name is none of its business."""
    kept = _kept(path)
    block = text.partition(BEGIN + "\n")[2].partition(END)[0]
    return kept if KEPT in block and (kept.exists() or kept.is_symlink()) else None


def _is_run(path: Path) -> bool:
    """Git passes over a hook that is not executable; husky runs it all the same."""
    return os.access(path, os.X_OK) or (path.parent.name == ".husky" and (path.parent / "_" / path.name).exists())


def _block(hook: Hook, kept: Path | None) -> str:
    check = f'{shlex.quote(program())} guard check --hook {hook} "$@"'
    # Whatever else it says is an own failure, a program that is gone (127) too: nobody is kept from working by that.
    told = "echo 'coord guard: not checked: coord doctor says more, coord init --yes writes this hook anew' >&2"
    check += f" || case $? in 3) exit 3 ;; *) {told} ;; esac"
    if hook == "pre-push":  # git tells what is pushed on standard input, and what comes behind wants to read it too
        lines = [
            "coord_pushed=$(cat)",
            f"printf '%s\\n' \"$coord_pushed\" | {check}",
            "exec <<COORD_PUSHED",
            "$coord_pushed",
            "COORD_PUSHED",
        ]
    else:
        lines = [check]
    if kept is not None:
        # With the name in it in any case: so it is known again.
        run = f'exec {shlex.quote(str(kept))} "$@"'
        lines.append(run if _is_run(kept) else f"# {run}")
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


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    """In one step, through a link that may be there; a file that is there keeps its mode, and gets executable if that is asked."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o755
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text, "utf-8")
    fresh.chmod(mode | 0o111 if executable else mode)
    fresh.replace(target)
