"""Names of what can be leased, made comparable, and the index that finds conflicting claims.

Laws: `normalise` is idempotent; two names that git would take for the same path have one normal form; `Overlap.of` is
symmetric, and finds a claim if and only if it shares a resource (types are name spaces of their own).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import ClaimId, Resource

MAX_PATH_CHARACTERS = 1_024
"""Longest name: a quarter of the usual limit of file systems, and short enough for a line on a screen to be cut sensibly."""


def _refuse(resource: Resource, why: str, hint: str = "name a path inside the repository, relative to its root") -> ResourceError:
    return ResourceError(f"{resource.type} {resource.path!r} {why}", hint=hint)


def normalise(resource: Resource) -> Resource:
    """The normal form: Unicode NFC; for files and specs without `.`, empty parts and a leading `./`, a trailing slash kept.

    Raises:
        ResourceError: it is empty, too long, absolute, leaves the repository, or has control characters.
    """
    path = unicodedata.normalize("NFC", resource.path)
    if not path or path.isspace():
        raise _refuse(resource, "is empty")
    if len(path) > MAX_PATH_CHARACTERS:
        raise _refuse(resource, f"is longer than {MAX_PATH_CHARACTERS} characters", "lease a folder above it instead")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise _refuse(resource, "has control characters", "name it without them")
    if resource.type in ("issue", "component"):
        return Resource(resource.type, path.strip())
    if path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        raise _refuse(resource, "is absolute")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refuse(resource, "leaves the repository")
    if not parts:
        return Resource(resource.type, "./")
    return Resource(resource.type, "/".join(parts) + ("/" if path.endswith("/") else ""))


def normalise_all(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Normal forms, sorted, each once.

    Raises:
        ResourceError: as `normalise`.
    """
    return tuple(sorted({normalise(resource) for resource in resources}))


class Overlap:
    """Which claims touch which resource. Constant time in the number of claims."""

    def __init__(self) -> None:
        self._claims: dict[Resource, dict[ClaimId, None]] = {}

    def add(self, claim: ClaimId, resources: tuple[Resource, ...]) -> None:
        """Remember a claim."""
        for resource in resources:
            self._claims.setdefault(resource, {})[claim] = None

    def remove(self, claim: ClaimId, resources: tuple[Resource, ...]) -> None:
        """Forget it."""
        for resource in resources:
            held = self._claims.get(resource)
            if held is not None:
                held.pop(claim, None)
                if not held:
                    del self._claims[resource]

    def of(self, resources: Iterable[Resource]) -> Iterator[ClaimId]:
        """Claims that share a resource, each once, in the order in which they became known."""
        found: dict[ClaimId, None] = {}
        for resource in resources:
            found.update(self._claims.get(resource, {}))
        return iter(found)
