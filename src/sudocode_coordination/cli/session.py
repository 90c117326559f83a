"""What a command needs of its surroundings: the clone, who acts, and the daemon to ask."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sudocode_coordination.api.requests import Request
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import RESOURCE_TYPES, Resource, ResourceType, validate_agent_id
from sudocode_coordination.place import Clone, find_clone, repo_relative

if TYPE_CHECKING:
    from sudocode_coordination.client.blocking import Client

R = TypeVar("R")


class Session:
    """One run of the command.

    Attributes:
        screen: where output goes.
        named_agent: what `--agent` said.
        agent: who acts: `--agent`, else `COORD_AGENT`, else None (the daemon's default agent).
    """

    def __init__(self, screen: Screen, agent: str | None) -> None:
        self.screen = screen
        self.named_agent = validate_agent_id(agent) if agent is not None else None
        from_environment = os.environ.get("COORD_AGENT") or None
        if agent is None and from_environment is not None:
            validate_agent_id(from_environment)
        self.agent = self.named_agent or from_environment
        self._client: Client | None = None

    @cached_property
    def clone(self) -> Clone:
        """The clone that the current directory is in.

        Raises:
            NotARepositoryError: it is in none.
        """
        return find_clone()

    def ask(self, request: Request[R], *, timeout_ms: int | None = 30_000) -> R:
        """The daemon's answer. `timeout_ms` None: however long it takes.

        Raises:
            CoordinationError: no daemon runs, or what it answered.
        """
        return self.client.call(request, timeout_s=None if timeout_ms is None else timeout_ms / 1000)

    @property
    def client(self) -> Client:
        """A connection to the clone's daemon, made at first use.

        Raises:
            DaemonError: none runs, or it does not answer.
        """
        if self._client is None:
            from sudocode_coordination.client.blocking import Client

            self._client = Client(self.clone)
        return self._client

    def close(self) -> None:
        """Close the connection: the daemon drops what was still waited for."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def path(self, text: str) -> str:
        """A path as the user wrote it, named from the repository's root.

        Raises:
            ResourceError: it is outside of the repository.
        """
        return repo_relative(self.clone, Path.cwd(), text)

    def resources(self, texts: Iterable[str], kind: ResourceType | None = None) -> tuple[Resource, ...]:
        """RESOURCE arguments: paths, or ids with a type given or written before them (`issue:#42`), as leases print them.

        Raises:
            ResourceError: a path outside of the repository.
            UsageError: an empty id.
        """
        return tuple(self._resource(text, kind) for text in texts)

    def _resource(self, text: str, kind: ResourceType | None) -> Resource:
        name = text
        if kind is None:
            prefix, colon, rest = text.partition(":")
            kind = next((known for known in RESOURCE_TYPES if colon and prefix == known), None)
            name = rest if kind is not None else text
        if kind in (None, "file", "spec"):
            return Resource(kind or "file", self.path(name))
        if not name.strip():
            raise UsageError(f"{text!r} names nothing", hint="write an id, like issue:#42")
        return Resource(kind, name.strip())
