"""How a function that makes a request becomes a method: who it speaks for, and whether it waits in a thread or in a task.

`Client.peers()` gives the answer, `AsyncClient.peers()` something to await: `Named.__get__` is typed for both.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from sudocode_coordination.api.requests import AcquireLease, Request, Stop
from sudocode_coordination.client.connect import DEFAULT_TIMEOUT_S
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource, ResourceType
from sudocode_coordination.place import Clone, repo_relative

P = ParamSpec("P")
R = TypeVar("R")
What: TypeAlias = str | Resource
"""A resource, or the path or id of one whose type is said beside it."""


class Speaker:
    """Who the methods speak for.

    Attributes:
        clone: the clone whose daemon is asked.
        folder: what relative paths are relative to.
        agent: who acts; None is the daemon's default agent.
    """

    clone: Clone
    folder: str
    agent: str | None

    def path(self, path: str | os.PathLike[str]) -> str:
        """A file's name in the repository.

        Raises:
            ResourceError: it is outside of it.
        """
        return repo_relative(self.clone, self.folder, path)

    def resource(self, what: What, kind: ResourceType = "file") -> Resource:
        """What a string names.

        Raises:
            ResourceError: a path outside of the repository, or an empty id.
        """
        if isinstance(what, Resource):
            return what
        if kind in ("file", "spec"):
            return Resource(kind, self.path(what))
        if not what.strip():
            raise ResourceError(f"{what!r} names no {kind}", hint="write an id, like #42")
        return Resource(kind, what.strip())

    def resources(self, what: What | Iterable[What], kind: ResourceType = "file") -> tuple[Resource, ...]:
        """What one or several strings name."""
        listed = (what,) if isinstance(what, (str, Resource)) else tuple(what)
        return tuple(self.resource(one, kind) for one in listed)

    def mixed(
        self, files: Iterable[str], issues: Iterable[str], specs: Iterable[str], components: Iterable[str]
    ) -> tuple[Resource, ...]:
        """Resources of every type."""
        return (
            *self.resources(files, "file"),
            *self.resources(issues, "issue"),
            *self.resources(specs, "spec"),
            *self.resources(components, "component"),
        )


class Blocks(Speaker):
    """Waits in the calling thread."""

    def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """The daemon's answer.

        Args:
            timeout_s: how long to wait; None is without limit.

        Raises:
            CoordinationError: what the daemon answered.
            NoDaemonError: it has ended.
            DaemonBusyError: it did not answer in time.
        """
        raise NotImplementedError


class Awaits(Speaker):
    """Waits in a task of asyncio or trio."""

    async def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """The daemon's answer. Cancelling the task takes the request back.

        Args:
            timeout_s: how long to wait; None is without limit.

        Raises:
            CoordinationError: what the daemon answered.
            NoDaemonError: it has ended.
            DaemonBusyError: it did not answer in time.
        """
        raise NotImplementedError


class Named(Generic[P, R]):
    """A method made of a function that makes a request."""

    def __init__(self, build: Callable[Concatenate[Speaker, P], Request[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__
        self.__name__ = build.__name__

    @overload
    def __get__(self, client: None, owner: type[object]) -> Named[P, R]: ...
    @overload
    def __get__(self, client: Blocks, owner: type[object]) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: Awaits, owner: type[object]) -> Callable[P, Awaitable[R]]: ...
    def __get__(
        self, client: Blocks | Awaits | None, owner: type[object]
    ) -> Named[P, R] | Callable[P, R] | Callable[P, Awaitable[R]]:
        if client is None:
            return self
        speaker = client
        build = self._build

        def method(*args: P.args, **kwargs: P.kwargs) -> R | Awaitable[R]:
            request = build(speaker, *args, **kwargs)
            return speaker.call(request, timeout_s=patience(request))

        method.__doc__ = self.__doc__
        method.__name__ = self.__name__
        return method  # type: ignore[return-value]


STRICT_TIMEOUT_S: Final = 120.0
"""Pushes to a remote that answers slowly, and races for it."""
STOP_TIMEOUT_S: Final = 20.0
"""The daemon gives itself twelve seconds."""


def patience(request: Request[R]) -> float | None:
    """How long a request may take, in seconds; None is without limit."""
    asked: object = request
    match asked:
        case AcquireLease(wait_ms=0):
            return None
        case AcquireLease(wait_ms=wait_ms, strict=strict):
            return (STRICT_TIMEOUT_S if strict else DEFAULT_TIMEOUT_S) + (wait_ms or 0) / 1000
        case Stop():
            return STOP_TIMEOUT_S
        case _:
            return DEFAULT_TIMEOUT_S
