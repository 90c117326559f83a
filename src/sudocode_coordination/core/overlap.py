"""The index that finds the claims on what overlaps a resource.

What it costs does not depend on how many claims there are, but on how many are near: paths are found by a dict (folders above)
and by bisection in a sorted list (what is below), patterns by the folder that all they stand for lies in. A pattern that is
asked for is compared with every path below that folder: `**/x` with all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from sudocode_coordination.core.resources import (
    MAX_PATTERNS,
    Shape,
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

    __slots__ = ("folders", "paths", "patterns", "sorted_folders", "sorted_paths")

    def __init__(self) -> None:
        self.paths: dict[str, _Bucket] = {}
        self.sorted_paths: list[str] = []
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
            bucket = self.paths.get(shape.key)
            if bucket is None:
                bucket = self.paths[shape.key] = {}
                insort(self.sorted_paths, shape.key)
        bucket.setdefault(claim, number)

    def remove(self, shape: Shape, claim: ClaimId) -> None:
        bucket = self.patterns.get(shape) if shape.pattern else self.paths.get(shape.key)
        if bucket is None:
            return
        bucket.pop(claim, None)
        if bucket:
            return
        if not shape.pattern:
            del self.paths[shape.key]
            del self.sorted_paths[bisect_left(self.sorted_paths, shape.key)]
            return
        del self.patterns[shape]
        here = self.folders[shape.folder]
        del here[shape]
        if not here:
            del self.folders[shape.folder]
            del self.sorted_folders[bisect_left(self.sorted_folders, shape.folder)]

    def near(self, shape: Shape, fold_case: bool) -> Iterator[_Bucket]:
        """The claims on all that overlaps it."""
        above = folders_of(shape.folder)
        for folder in above:
            if folder in self.paths:
                yield self.paths[folder]  # a path that holds all of it
        if self.folders:
            for folder in above:
                for pattern in self.folders.get(folder, ()):
                    if shapes_overlap(shape, pattern, fold_case):
                        yield self.patterns[pattern]
            for folder in _below(self.sorted_folders, shape.folder):
                for pattern in self.folders[folder]:
                    if not shape.pattern or shapes_overlap(shape, pattern, fold_case):
                        yield self.patterns[pattern]
        for path in _below(self.sorted_paths, shape.folder):
            if not shape.pattern or shapes_overlap(shape, Shape(path, path, False, True), fold_case):
                yield self.paths[path]


def _below(ordered: list[str], folder: str) -> Iterator[str]:
    """Those strictly below a folder: one stretch of the list, as `0` is next after `/`."""
    if not folder:
        return iter(ordered[bisect_left(ordered, "\0") :])
    return iter(ordered[bisect_left(ordered, folder + "/") : bisect_left(ordered, folder + "0")])


class Overlap:
    """Which claims touch which resource.

    Args:
        fold_case: the repository ignores the case of ASCII letters.
    """

    def __init__(self, *, fold_case: bool = False) -> None:
        self._fold_case = fold_case
        self._exact: dict[Resource, _Bucket] = {}
        """Issues, components, and all that is not in normal form."""
        self._names = {"file": _Names(), "spec": _Names()}
        self._count = 0

    def add(self, claim: ClaimId, resources: tuple[Resource, ...]) -> None:
        """Remember a claim."""
        self._count += 1
        for resource, shape in self._shapes(resources):
            if shape is None:
                self._exact.setdefault(resource, {}).setdefault(claim, self._count)
            else:
                self._names[resource.type].add(shape, claim, self._count)

    def remove(self, claim: ClaimId, resources: tuple[Resource, ...]) -> None:
        """Forget it."""
        for resource, shape in self._shapes(resources):
            if shape is not None:
                self._names[resource.type].remove(shape, claim)
                continue
            held = self._exact.get(resource)
            if held is not None:
                held.pop(claim, None)
                if not held:
                    del self._exact[resource]

    def of(self, resources: Iterable[Resource]) -> Iterator[ClaimId]:
        """Claims on what overlaps any of the resources, each once, in the order in which they became known."""
        found: _Bucket = {}
        for resource, shape in self._shapes(tuple(resources)):
            if shape is None:
                found.update(self._exact.get(resource, {}))
            else:
                for bucket in self._names[resource.type].near(shape, self._fold_case):
                    found.update(bucket)
        return iter(sorted(found, key=found.__getitem__))

    def touches(self, resource: Resource) -> bool:
        """Whether there is any."""
        return next(self.of((resource,)), None) is not None

    def _shapes(self, resources: tuple[Resource, ...]) -> Iterator[tuple[Resource, Shape | None]]:
        """With more patterns than one lease may have, none of them is more than its own name."""
        too_many = len(resources) > MAX_PATTERNS and pattern_count(resources) > MAX_PATTERNS
        for resource in resources:
            shape = shape_of(resource, self._fold_case)
            yield resource, None if too_many and shape is not None and shape.pattern else shape
