"""Names of what can be leased, made comparable, and which of them overlap.

Files and specs are named by paths, from the root of the repository:

| name | means |
|---|---|
| `src/a`, a plain name | that path; towards other plain names and what lies wholly below it also the folder of that name |
| `src/a/` | the path, and all below it |
| `src/*.py`, a pattern (`*`, `?`, `[` or `\\` in it) | what git's pathspec magic `glob` matches, and its own letters |
| `src/*/` | the same, and all below |

Two names overlap if and only if some path is meant by both, or one is a plain name and the other lies wholly in it: its path, or
the folder that all of a pattern lies in (its parts before the first with a wildcard), is that name or below it. The second
half is for `src/a` beside `src/a/b.py` or `src/a/*`: git can't have a file and a folder of one name, so whoever makes the one is in
the way of whoever makes the other. It is not for `src/a.py` beside `**/*.md`, which git could take for overlapping: nobody means a
folder there, and a pattern would be in the way of every file. Clients write the slash to names of folders that are there.

Where case does not count (`fold_case`), two names overlap if and only if two paths that are equal but for case would make them.

Issues and components are names without parts, and case never counts in them; an issue's number is the same with and without `#`.

Laws: `normalise` is idempotent; two names that git would take for the same path have one normal form, but for the slash at the
end; `overlap` is symmetric, and holds with `fold_case` wherever it holds without; if one name covers another, it overlaps all that
the other does; `Overlap.of` finds a claim if and only if it overlaps (types are name spaces of their own). What is not in normal
form (an older or a hostile peer sent it) raises nothing and overlaps itself alone.
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
    parts = [part for part in path.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if name.isspace():
        raise _refuse(resource, "is empty")  # behind a `./` too: what comes out must be able to come in
    # Of the name, not of what was given: behind a `./` it would be absolute to whoever gets it.
    drive = name[1:2] == ":" and name[0].isalpha()
    if path[0] == "/" or drive or name.startswith("\\\\"):
        raise _refuse(resource, "is absolute")
    if ".." in parts:
        raise _refuse(resource, "leaves the repository")
    if ":" in path and any(part == ":" or part.startswith((":(", ":!", ":^")) for part in parts):
        raise _refuse(resource, "asks for a magic of git's pathspecs", "write the pattern alone: it is read as git reads :(glob)")
    if not parts:
        return Resource(resource.type, "./")
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
    pattern: str
    """Of a pattern: it, without the slash at the end and not folded. Else ""."""
    deep: bool
    """Whether what lies below is meant in any case: the name has a slash at its end."""


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
    pattern = is_pattern(path)
    return Shape(key, literal_folder(key) if pattern else key, path if pattern else "", resource.path.endswith("/"))


def folded(shape: Shape) -> Shape:
    """The same name where case does not count."""
    return Shape(fold(shape.key), fold(shape.folder), shape.pattern, shape.deep)


def below(key: str, folder: str) -> bool:
    """Whether the one is the other, or lies in it. Both without a slash at the end; "" holds everything."""
    return not folder or key == folder or (key.startswith(folder) and key[len(folder)] == "/")


@lru_cache(SHAPES_KEPT)
def automaton_of(shape: Shape, fold_case: bool) -> Automaton | None:
    """What a pattern matches; None if nothing, and for a plain name."""
    tokens = parse(shape.pattern, fold_case) if shape.pattern else None
    return None if tokens is None else Automaton(tokens, below=shape.deep)


def _meets_name(wild: Automaton, key: str, deep: bool) -> bool:
    """Whether the automaton matches the path, or (`deep`) some path below it."""
    if not key:
        return True
    states = wild.along(key)
    return bool(states & wild.accepts) or (deep and states != 0 and wild.step(states, "/") != 0)


def lies_in(inner: Shape, outer: Shape) -> bool:
    """Whether `outer` is a plain name, and all that `inner` means is that path or lies below it; or whether `inner` does so
    letter by letter, and `outer` is a pattern with a slash at its end."""
    return below(inner.key, outer.key) and outer.deep if outer.pattern else below(inner.folder, outer.key)


@lru_cache(ANSWERS_KEPT)
def shapes_overlap(one: Shape, two: Shape, fold_case: bool) -> bool:
    """`overlap`, of files or of specs."""
    if one.key == two.key or lies_in(one, two) or lies_in(two, one):
        return True
    if not (below(one.folder, two.folder) or below(two.folder, one.folder)):
        return False
    first, second = automaton_of(one, fold_case), automaton_of(two, fold_case)
    return (
        (first is not None and _meets_name(first, two.key, two.deep))
        or (second is not None and _meets_name(second, one.key, one.deep))
        or (first is not None and second is not None and meet(first, second))
    )


def overlap(one: Resource, two: Resource, *, fold_case: bool = False) -> bool:
    """Whether the two can't be leased apart, as the module says; for what is not in normal form: whether they are equal.

    Args:
        fold_case: case does not count in files and specs.
    """
    if one == two:
        return True
    if one.type != two.type:
        return False
    first, second = shape_of(one, fold_case), shape_of(two, fold_case)
    if first is None or second is None:
        return exact_name(one) == exact_name(two)
    return shapes_overlap(first, second, fold_case)


def matches(resource: Resource, path: str, *, fold_case: bool = False) -> bool:
    """Whether git takes a file for meant by a file's or spec's name in normal form; a plain name means what lies below, too.

    Args:
        path: of a file, from the repository's root, NFC, without a slash at the end.
        fold_case: as for `overlap`.
    """
    shape = shape_of(resource, fold_case)
    if shape is None:
        return resource.path == path
    asked = fold(path) if fold_case else path
    if asked == shape.key or ((shape.deep or not shape.pattern) and below(asked, shape.key)):
        return True
    wild = automaton_of(shape, fold_case)
    return wild is not None and _meets_name(wild, asked, False)


def covers(one: Resource, two: Resource, *, fold_case: bool = False) -> bool:
    """Whether whatever overlaps `two` overlaps `one`: who holds `one` need not ask for `two`.

    Never true without reason. Of two different patterns it is true only if `one` has the meaning of a folder that all of
    `two` lies in; whether one pattern is a part of another is not found out.
    """
    if one == two:
        return True
    if one.type != two.type:
        return False
    outer, inner = shape_of(one, fold_case), shape_of(two, fold_case)
    if outer is None or inner is None:
        return exact_name(one) == exact_name(two)
    if not outer.pattern and outer.deep:
        return below(inner.folder, outer.key)
    if outer.pattern and not inner.pattern:
        wild = automaton_of(outer, fold_case)
        if wild is None or not _holds_all_of(wild, inner.key):
            return False
        # A plain name above it is in its way as a folder, and may be out of a wildcard's.
        return all(shapes_overlap(outer, Shape(folder, folder, "", False), fold_case) for folder in folders_of(inner.key))
    return outer.key == inner.key and outer.pattern == inner.pattern and (outer.deep or not inner.deep)


def _holds_all_of(wild: Automaton, key: str) -> bool:
    if not key:
        return wild.ends_in_all(wild.begin())
    states = wild.along(key)
    return bool(states & wild.accepts) and wild.ends_in_all(wild.step(states, "/"))


def exact_name(resource: Resource) -> Resource:
    """What has to be equal where nothing else makes two names overlap: for issues and components without regard to case, and
    of an issue's number with its `#`."""
    if resource.type not in ("issue", "component"):
        return resource
    text = unicodedata.normalize("NFC", resource.path).strip()
    number = resource.type == "issue" and text.isascii() and text.isdecimal()
    return Resource(resource.type, f"#{text}" if number else text.casefold())


def name_of(resource: Resource, *, fold_case: bool = False) -> Resource:
    """Equal for what is released by one name: a path with and without a slash at its end (for a pattern the slash says
    something), an issue or component however it is written."""
    if resource.type in ("issue", "component"):
        return exact_name(resource)
    path = resource.path if resource.path == "./" or is_pattern(resource.path) else resource.path.removesuffix("/")
    return Resource(resource.type, fold(path) if fold_case else path)


def all_covered(resources: Iterable[Resource], by: Iterable[Resource], *, fold_case: bool = False) -> bool:
    """Whether each of the resources is covered by a single one of the others."""
    outer = tuple(by)
    exact: set[Resource] = set()
    folders: set[tuple[str, str]] = set()
    patterns: list[Resource] = []
    for one in outer:
        shape = shape_of(one, fold_case)
        if shape is None or not (shape.pattern or shape.deep):
            exact.add(_written(one, shape))
        elif shape.pattern:
            patterns.append(one)
        else:
            folders.add((one.type, shape.key))
    for two in resources:
        shape = shape_of(two, fold_case)
        if (shape is None or not (shape.pattern or shape.deep)) and _written(two, shape) in exact:
            continue
        if shape is not None and any((two.type, folder) in folders for folder in folders_of(shape.folder)):
            continue
        if not any(covers(one, two, fold_case=fold_case) for one in patterns):
            return False
    return True


def _written(resource: Resource, shape: Shape | None) -> Resource:
    return exact_name(resource) if shape is None else Resource(resource.type, shape.key)


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
