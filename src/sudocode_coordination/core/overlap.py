"""The index that finds the claims on what overlaps a resource.

What it costs does not depend on how many claims there are, but on how many are near: paths are found by a dict (folders above)
and by bisection in a sorted list (what is below), patterns by the folder that all they stand for lies in. A pattern that is
asked for walks the sorted paths below that folder, each beginning that paths share once, and leaves out what can't match.

A claim whose owner's clone ignores case is compared without case, and so is every claim with one that is asked for by such a
clone. So names are kept as they are written for claims of the one kind, folded for those of the other, and, from when it is
first wanted, folded for those of the first kind too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from sudocode_coordination.core.patterns import Automaton
from sudocode_coordination.core.resources import (
    MAX_PATTERNS,
    Shape,
    automaton_of,
    exact_name,
    folded,
    folders_of,
    pattern_count,
    shape_of,
    shapes_overlap,
)
from sudocode_coordination.model import ClaimId, Resource

_Bucket: TypeAlias = dict[ClaimId, int]
"""Claims on one thing, with their place in the order in which claims became known."""


class _Names:
    """Files, or specs: name spaces of their own."""

    __slots__ = ("_fold_case", "deep", "folders", "paths", "patterns", "sorted_folders", "sorted_paths")

    def __init__(self, fold_case: bool) -> None:
        self._fold_case = fold_case
        self.paths: dict[str, _Bucket] = {}
        self.deep: dict[str, _Bucket] = {}
        """Those of the paths whose name has a slash at its end."""
        self.sorted_paths: list[str] = []
        """Of both."""
        self.patterns: dict[Shape, _Bucket] = {}
        self.folders: dict[str, dict[Shape, None]] = {}
        """Patterns by the folder that all they stand for lies in."""
        self.sorted_folders: list[str] = []

    def add(self, shape: Shape, claim: ClaimId, number: int) -> None:
        if shape.pattern:
            bucket = self.patterns.get(shape)
            if bucket is None:
                bucket = self.patterns[shape] = {}
                if shape.folder not in self.folders:
                    insort(self.sorted_folders, shape.folder)
                self.folders.setdefault(shape.folder, {})[shape] = None
        else:
            if shape.key not in self.paths and shape.key not in self.deep:
                insort(self.sorted_paths, shape.key)
            bucket = (self.deep if shape.deep else self.paths).setdefault(shape.key, {})
        bucket.setdefault(claim, number)

    def remove(self, shape: Shape, claim: ClaimId) -> None:
        plain = self.deep if shape.deep else self.paths
        bucket = self.patterns.get(shape) if shape.pattern else plain.get(shape.key)
        if bucket is None:
            return
        bucket.pop(claim, None)
        if bucket:
            return
        if not shape.pattern:
            del plain[shape.key]
            if shape.key not in self.paths and shape.key not in self.deep:
                del self.sorted_paths[bisect_left(self.sorted_paths, shape.key)]
            return
        del self.patterns[shape]
        here = self.folders[shape.folder]
        del here[shape]
        if not here:
            del self.folders[shape.folder]
            del self.sorted_folders[bisect_left(self.sorted_folders, shape.folder)]

    def all(self) -> Iterator[tuple[Shape, _Bucket]]:
        """Everything that is in it."""
        yield from self.patterns.items()
        for plain, deep in ((self.paths, False), (self.deep, True)):
            for key, bucket in plain.items():
                yield Shape(key, key, "", deep), bucket

    def near(self, shape: Shape, found: _Bucket) -> None:
        """Add the claims on all that overlaps it."""
        above = folders_of(shape.folder)
        for folder in above:
            self._at(folder, found)  # a path that it lies in
        if self.folders:
            for folder in above:
                for pattern in self.folders.get(folder, ()):
                    if shapes_overlap(shape, pattern, self._fold_case):
                        found.update(self.patterns[pattern])
            for folder in self.sorted_folders[_below(self.sorted_folders, shape.folder)]:
                for pattern in self.folders[folder]:
                    if not shape.pattern or shapes_overlap(shape, pattern, self._fold_case):
                        found.update(self.patterns[pattern])
        if not shape.pattern:
            for path in self.sorted_paths[_below(self.sorted_paths, shape.folder)]:
                self._at(path, found)
            return
        wild = automaton_of(shape, self._fold_case)
        if wild is not None:
            for bucket in self._matched(wild, _below(self.sorted_paths, shape.folder)):
                found.update(bucket)

    def _at(self, path: str, found: _Bucket) -> None:
        if path in self.paths:
            found.update(self.paths[path])
        if path in self.deep:
            found.update(self.deep[path])

    def _matched(self, wild: Automaton, where: slice) -> Iterator[_Bucket]:
        """Paths in a stretch of the sorted ones that a pattern matches, or something below those with a slash at their end."""
        before = ""
        trail = [wild.begin()]  # the states after each character of the path before
        at, end = where.start, where.stop
        while at < end:
            path = self.sorted_paths[at]
            same, most = 0, min(len(trail) - 1, len(path))
            while same < most and before[same] == path[same]:
                same += 1
            del trail[same + 1 :]
            before = path
            states = trail[-1]
            for char in path[same:]:
                states = wild.step(states, char)
                trail.append(states)
                if not states:
                    break
            if not states:  # nothing that begins like this can match
                dead = path[: len(trail) - 1]
                at = _past(self.sorted_paths, dead, at, end)
                continue
            at += 1
            matched = states & wild.accepts
            if matched and path in self.paths:
                yield self.paths[path]
            if path in self.deep and (matched or wild.step(states, "/")):
                yield self.deep[path]


def _below(ordered: list[str], folder: str) -> slice:
    """Where those strictly below a folder are: one stretch of the list, as `0` is next after `/`."""
    if not folder:
        return slice(bisect_left(ordered, "\0"), len(ordered))
    return slice(bisect_left(ordered, folder + "/"), bisect_left(ordered, folder + "0"))


def _past(ordered: list[str], beginning: str, at: int, end: int) -> int:
    """Where the first is that does not begin like this, after one that does."""
    last = ord(beginning[-1])
    return bisect_left(ordered, beginning[:-1] + chr(last + 1), at + 1, end) if last < 0x10FFFF else at + 1


class Overlap:
    """Which claims touch which resource. `fold_case`, everywhere: of a clone in which case does not count."""

    def __init__(self) -> None:
        self._exact: dict[Resource, _Bucket] = {}
        """Issues, components, and all that is not in normal form."""
        self._written = {"file": _Names(False), "spec": _Names(False)}
        """Of claims in which case counts."""
        self._folded = {"file": _Names(True), "spec": _Names(True)}
        """Of those in which it does not."""
        self._written_folded: dict[str, _Names] | None = None
        """Those in which it counts, for comparison with such in which it does not; None until it is wanted."""
        self._count = 0

    def add(self, claim: ClaimId, resources: tuple[Resource, ...], *, fold_case: bool = False) -> None:
        """Remember a claim."""
        self._count += 1
        for resource, shape in _shapes(resources, fold_case):
            if shape is None:
                self._exact.setdefault(exact_name(resource), {}).setdefault(claim, self._count)
                continue
            (self._folded if fold_case else self._written)[resource.type].add(shape, claim, self._count)
            if self._written_folded is not None and not fold_case:
                self._written_folded[resource.type].add(folded(shape), claim, self._count)

    def remove(self, claim: ClaimId, resources: tuple[Resource, ...], *, fold_case: bool = False) -> None:
        """Forget it. As it was added."""
        for resource, shape in _shapes(resources, fold_case):
            if shape is not None:
                (self._folded if fold_case else self._written)[resource.type].remove(shape, claim)
                if self._written_folded is not None and not fold_case:
                    self._written_folded[resource.type].remove(folded(shape), claim)
                continue
            name = exact_name(resource)
            held = self._exact.get(name)
            if held is not None:
                held.pop(claim, None)
                if not held:
                    del self._exact[name]

    def of(self, resources: Iterable[Resource], *, fold_case: bool = False) -> Iterator[ClaimId]:
        """Claims on what overlaps any of the resources, each once, in the order in which they became known. Case does not count
        if it does not for the one or for the other."""
        found: _Bucket = {}
        wanted = tuple(resources)
        for resource, shape in _shapes(wanted, fold_case):
            if shape is None:
                found.update(self._exact.get(exact_name(resource), {}))
                continue
            written = self._in_both_senses() if fold_case else self._written
            written[resource.type].near(shape, found)
            if self._folded[resource.type].sorted_paths or self._folded[resource.type].patterns:
                self._folded[resource.type].near(shape if fold_case else folded(shape), found)
        return iter(sorted(found, key=found.__getitem__) if len(found) > 1 else found)

    def touches(self, resource: Resource, *, fold_case: bool = False) -> bool:
        """Whether there is any."""
        return next(self.of((resource,), fold_case=fold_case), None) is not None

    def _in_both_senses(self) -> dict[str, _Names]:
        if self._written_folded is None:
            self._written_folded = {kind: _Names(True) for kind in self._written}
            for kind, names in self._written.items():
                for shape, bucket in names.all():
                    for claim, number in bucket.items():
                        self._written_folded[kind].add(folded(shape), claim, number)
        return self._written_folded


def _shapes(resources: tuple[Resource, ...], fold_case: bool) -> Iterator[tuple[Resource, Shape | None]]:
    """With more patterns than one lease may have, none of them is more than its own name."""
    too_many = len(resources) > MAX_PATTERNS and pattern_count(resources) > MAX_PATTERNS
    for resource in resources:
        shape = shape_of(resource, fold_case)
        yield resource, None if too_many and shape is not None and shape.pattern else shape
