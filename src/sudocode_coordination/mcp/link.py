"""The one connection of the server to the clone's daemon, and who acts through it.

It is opened by the first call that needs it, and anew by the next one after the daemon has ended: a server outlives daemons. Agents
that it attaches are bound to the connection, so that they leave with it.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

import anyio

from sudocode_coordination.api.requests import CheckConflicts
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.hooks.agents import processes_above
from sudocode_coordination.model import AgentId, validate_agent_id
from sudocode_coordination.place import Clone, find_clone

MAX_CLIENT_NAME: Final = 40
"""Characters of an MCP client's name that become part of an agent id, which has a hundred."""


class Link:
    """See the module.

    Args:
        folder: in the clone; None: the current directory.
        agent: who acts where a call names nobody; None: see `acting`.

    Raises:
        UsageError: no agent can have that id.
    """

    def __init__(self, folder: str | None, agent: AgentId | None) -> None:
        self._folder = folder
        self._self = None if agent is None else validate_agent_id(agent)
        self._base: AsyncClient | None = None
        self._attached: set[AgentId] = set()
        self._opening = anyio.Lock()
        self._naming = anyio.Lock()

    @property
    def clone(self) -> Clone:
        """The clone that is served.

        Raises:
            NotARepositoryError: the folder is in none.
        """
        return find_clone(self._folder)

    async def looking(self) -> AsyncClient:
        """A client for what concerns nobody in particular.

        Raises:
            CoordinationError: there is no clone, or no daemon that answers.
        """
        async with self._opening:
            if self._base is None or self._base.connection.ended is not None:
                await self._close()
                clone = self.clone
                # Paths mean the same wherever the MCP client has started the server: they are read from the root.
                base = AsyncClient(clone, folder=clone.root)
                await base.open()
                self._base = base
            return self._base

    async def acting(self, named: AgentId, mcp_client: str | None) -> AsyncClient:
        """A client for an agent, which is attached from now on.

        `named` by the call (empty: not), else by `COORD_AGENT` or `--agent`, else the agent whose hooks run under the same process
        as this server (it is the same one), else a name made of the MCP client's and this process.

        Raises:
            CoordinationError: there is no clone, or no daemon that answers; the id is not usable.
        """
        base = await self.looking()
        agent = validate_agent_id(named) if named else await self._own(base, mcp_client)
        # Hooks tell when a session ends; that its client has started this server anew is no end of it. But one that was silent for
        # too long has left, and then there is nobody else who would say when it ends.
        if agent not in self._attached and agent != await _of_hooks(base):
            await base.attach(agent, bound=True)
            self._attached.add(agent)
        return AsyncClient(base.clone, agent=agent, folder=base.folder, connection=base.connection)

    async def aclose(self) -> None:
        """Leave: bound agents leave too, and what they wait for is dropped."""
        with anyio.CancelScope(shield=True):
            async with self._opening:
                await self._close()

    # --- inside -----------------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        base, self._base = self._base, None
        self._attached.clear()
        if base is not None:
            await base.aclose()

    async def _own(self, base: AsyncClient, mcp_client: str | None) -> AgentId:
        async with self._naming:  # calls come side by side, and all are of one agent
            if self._self is None:
                self._self = await _of_hooks(base) or made_up(mcp_client)
            return self._self


async def _of_hooks(base: AsyncClient) -> AgentId | None:
    """Whose session's hooks run under a process that this one runs under too. A subagent's name begins with its session's."""
    checked = await base.call(CheckConflicts(resources=(), processes=tuple(processes_above())))
    local = (await base.status()).agents
    found = checked.agent_id
    if any(agent.default and agent.agent_id == found for agent in local):
        return None
    return next((agent.agent_id for agent in local if found.startswith(f"{agent.agent_id}.")), found)


def made_up(mcp_client: str | None) -> AgentId:
    """An id that no other server has: `claude-code-4711-9f3a`."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in (mcp_client or "").lower())[:MAX_CLIENT_NAME]
    name = "-".join(part for part in kept.split("-") if part) or "mcp"
    return f"{name}-{os.getppid()}-{secrets.token_hex(2)}"
