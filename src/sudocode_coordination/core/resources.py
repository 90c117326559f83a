"""Names of what can be leased, made comparable, and which of them overlap.

A file or spec is named by a path: it stands for the file, or for the folder of that name and everything below it. `src/a` and
`src/a/` are the same: a repository has either a file or a folder `src/a`, and whoever turns the one into the other is in the
way of both. A path with `*`, `?`, `[` or `\\` is a pattern with the meaning of git's pathspec magic `glob` (`patterns.py`), and
as in git it also stands for itself, letter by letter: `app/[id]/page.tsx` may be leased as it is. What lies below a path that
a pattern matches is not meant, unless the pattern has a slash at its end (git: only if the match is letter by letter). Issues
and components are exact names.

Laws: `normalise` is idempotent; two names that git would take for the same path have one normal form, but for the slash at the
end; `overlap` is symmetric, and true if and only if some path is meant by both; `Overlap.of` finds a claim if and only if it
overlaps (types are name spaces of their own). What is not in normal form (an older or a hostile peer sent it) raises nothing
and overlaps itself alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from sudocode_coordination.core.patterns import (
    MAX_PATTERN_CHARACTERS,
    MAX_WILDCARDS,
    Automaton,
    fold,
    is_pattern,
    literal_folder,
    meet,
    parse,
    wildcards,
)
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource

MAX_PATH_CHARACTERS: Final = 1_024
"""Longest name: a quarter of the usual limit of file systems, and short enough for a line on a screen to be cut sensibly."""
MAX_PATTERNS: Final = 32
"""Patterns in one lease: every one is compared with every other that could be near it."""
SHAPES_KEPT: Final = 8_192
"""Names whose parts are remembered, and patterns whose automata are: a few KB each at worst."""
ANSWERS_KEPT: Final = 32_768
"""Pairs of a pattern and a name whose answer is remembered: a pattern asked for beside 10,000 leases is compared with each
of them several times. The names are shared with the leases."""


def _refuse(resource: Resource, why: str, hint: str = "name a path inside the repository, relative to its root") -> ResourceError:
    return ResourceError(f"{resource.type} {resource.path!r} {why}", hint=hint)


def normalise(resource: Resource) -> Resource:
    """The normal form: Unicode NFC; for files and specs without `.`, empty parts and a leading `./`, a trailing slash kept.

    Raises:
        ResourceError: it is empty, too long, absolute, leaves the repository, has control characters, or is a pattern that
            is too long, has too many wildcards, or wants another of git's pathspec magics.
    """
    path = unicodedata.normalize("NFC", resource.path)
    if not path or path.isspace():
        raise _refuse(resource, "is empty")
    if len(path) > MAX_PATH_CHARACTERS:
        raise _refuse(resource, f"is longer than {MAX_PATH_CHARACTERS} characters", "lease a folder above it instead")
    if not (path.isascii() and path.isprintable()) and any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise _refuse(resource, "has control characters", "name it without them")
    if resource.type in ("issue", "component"):
        return Resource(resource.type, path.strip())
    drive = len(path) > 1 and path[1] == ":" and path[0].isalpha()
    if path[0] == "/" or drive or path.startswith("\\\\"):
        raise _refuse(resource, "is absolute")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refuse(resource, "leaves the repository")
    if ":" in path and any(part == ":" or part.startswith((":(", ":!", ":^")) for part in parts):
        raise _refuse(resource, "asks for a magic of git's pathspecs", "write the pattern alone: it is read as git reads :(glob)")
    if not parts:
        return Resource(resource.type, "./")
    name = "/".join(parts)
    if is_pattern(name):
        if len(name) > MAX_PATTERN_CHARACTERS:
            raise _refuse(
                resource, f"has wildcards and more than {MAX_PATTERN_CHARACTERS} characters", "lease a folder above it instead"
            )
        if wildcards(name) > MAX_WILDCARDS:
            raise _refuse(resource, f"has more than {MAX_WILDCARDS} wildcards", "lease a folder above it instead")
    return Resource(resource.type, name + ("/" if path.endswith("/") else ""))


def normalise_all(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Normal forms, sorted, each once.

    Raises:
        ResourceError: as `normalise`, or there are too many patterns.
    """
    found = tuple(sorted({normalise(resource) for resource in resources}))
    if pattern_count(found) > MAX_PATTERNS:
        raise ResourceError(f"there are more than {MAX_PATTERNS} patterns", hint="lease a folder above them instead")
    return found


def pattern_count(resources: Iterable[Resource]) -> int:
    """How many of them are patterns."""
    return sum(1 for resource in resources if resource.type in ("file", "spec") and is_pattern(resource.path))


class Shape(NamedTuple):
    """What a file's or spec's name in normal form is made of."""

    key: str
    """Without the slash at the end, and folded where case does not count; "" is the whole repository."""
    folder: str
    """Of a pattern: the folder that all it stands for lies in. Else as `key`."""
    pattern: bool
    deep: bool
    """Whether what lies below is meant: always, but for a pattern without a slash at its end."""


@lru_cache(SHAPES_KEPT)
def shape_of(resource: Resource, fold_case: bool) -> Shape | None:
    """Its parts; None for issues, components, and what is not in normal form: these are equal or not, and that is all."""
    if resource.type not in ("file", "spec"):
        return None
    try:
        if normalise(resource) != resource:
            return None
    except ResourceError:
        return None
    path = "" if resource.path == "./" else resource.path.removesuffix("/")
    key = fold(path) if fold_case else path
    pattern = is_pattern(key)
    return Shape(key, literal_folder(key) if pattern else key, pattern, not pattern or resource.path.endswith("/"))


def below(key: str, folder: str) -> bool:
    """Whether the one is the other, or lies in it. Both without a slash at the end; "" holds everything."""
    return not folder or key == folder or (key.startswith(folder) and key[len(folder)] == "/")


@lru_cache(SHAPES_KEPT)
def _wild(shape: Shape, folded: bool) -> Automaton | None:
    tokens = parse(shape.key, folded) if shape.pattern else None
    return None if tokens is None else Automaton(tokens, below=shape.deep)


def _meets_name(wild: Automaton, key: str, deep: bool) -> bool:
    """Whether the automaton matches the path, or (`deep`) some path below it."""
    if not key:
        return True
    states = wild.along(key)
    return bool(states & wild.accepts) or (deep and states != 0 and wild.step(states, "/") != 0)


@lru_cache(ANSWERS_KEPT)
def shapes_overlap(one: Shape, two: Shape, fold_case: bool) -> bool:
    """Whether some path is meant by both."""
    if one.key == two.key or (one.deep and below(two.key, one.key)) or (two.deep and below(one.key, two.key)):
        return True  # also of patterns: they stand for themselves as well
    if not (below(one.folder, two.folder) or below(two.folder, one.folder)):
        return False
    first, second = _wild(one, fold_case), _wild(two, fold_case)
    return (
        (first is not None and _meets_name(first, two.key, two.deep))
        or (second is not None and _meets_name(second, one.key, one.deep))
        or (first is not None and second is not None and meet(first, second))
    )


def overlap(one: Resource, two: Resource, *, fold_case: bool = False) -> bool:
    """Whether some path is meant by both; for issues, components and what is not in normal form: whether they are equal.

    Args:
        fold_case: the repository ignores the case of ASCII letters, as git's `core.ignorecase` does.
    """
    if one == two:
        return True
    if one.type != two.type:
        return False
    first, second = shape_of(one, fold_case), shape_of(two, fold_case)
    return first is not None and second is not None and shapes_overlap(first, second, fold_case)


def matches(resource: Resource, path: str, *, fold_case: bool = False) -> bool:
    """Whether a path is meant by a file's or spec's name in normal form.

    Args:
        path: from the repository's root, NFC, without a slash at the end.
        fold_case: as for `overlap`.
    """
    shape = shape_of(resource, fold_case)
    if shape is None:
        return resource.path == path
    asked = fold(path) if fold_case else path
    if asked == shape.key or (shape.deep and below(asked, shape.key)):
        return True
    wild = _wild(shape, fold_case)
    return wild is not None and _meets_name(wild, asked, False)


def covers(one: Resource, two: Resource, *, fold_case: bool = False) -> bool:
    """Whether every path that `two` means is meant by `one`.

    Never true without reason. Of two different patterns it is true only if `one` has the meaning of a folder that all of
    `two` lies in; whether one pattern is a part of another is not found out.
    """
    if one == two:
        return True
    if one.type != two.type:
        return False
    outer, inner = shape_of(one, fold_case), shape_of(two, fold_case)
    if outer is None or inner is None:
        return False
    if not outer.pattern:
        return below(inner.folder, outer.key)
    if inner.pattern:
        return outer.key == inner.key and outer.deep
    if outer.deep and below(inner.key, outer.key):
        return True
    wild = _wild(outer, fold_case)
    return wild is not None and _holds_all_of(wild, inner.key)


def _holds_all_of(wild: Automaton, key: str) -> bool:
    if not key:
        return wild.ends_in_all(wild.begin())
    states = wild.along(key)
    return bool(states & wild.accepts) and wild.ends_in_all(wild.step(states, "/"))


def name_of(resource: Resource) -> Resource:
    """The resource without the slash at the end of its path, where that says nothing; equal for those that are one name."""
    if resource.type not in ("file", "spec") or is_pattern(resource.path) or resource.path == "./":
        return resource
    return Resource(resource.type, resource.path.removesuffix("/")) if resource.path.endswith("/") else resource


def all_covered(resources: Iterable[Resource], by: Iterable[Resource], *, fold_case: bool = False) -> bool:
    """Whether each of the resources is covered by a single one of the others."""
    outer = tuple(by)
    exact = set(outer)
    keys: set[tuple[str, str]] = set()
    others: list[Resource] = []
    for one in outer:
        shape = shape_of(one, fold_case)
        if shape is not None and shape.pattern:
            others.append(one)
        elif shape is not None:
            keys.add((one.type, shape.key))
    for two in resources:
        if two in exact:
            continue
        shape = shape_of(two, fold_case)
        if shape is None:
            return False
        if any((two.type, folder) in keys for folder in folders_of(shape.folder)):
            continue
        if not any(covers(one, two, fold_case=fold_case) for one in others):
            return False
    return True


def folders_of(key: str) -> list[str]:
    """The path itself and all folders above it, the repository ("") first."""
    if not key:
        return [""]
    found = [""]
    at = key.find("/")
    while at >= 0:
        found.append(key[:at])
        at = key.find("/", at + 1)
    found.append(key)
    return found
