"""Strict leases of many agents at once: one peer writes for all, so that the remote sees a handful of pushes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest
from tests.e2e.clones import wait_for
from tests.e2e.recorder import chain_of
from tests.e2e.swarm import Member, at_once, remote_of, swarm

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.model import Resource

AGENTS: Final = 20
HANDFUL: Final = 6
"""The first commit takes what is there when it begins, and the others gather meanwhile; on a busy machine they come in dribs."""


@pytest.fixture(scope="module")
def four() -> Iterator[list[Member]]:
    with swarm("ada", "bob", "cyd", "dan") as members:
        yield members


def ask(client: Client, path: str, wait_ms: int | None = None) -> LeaseOutcome:
    request = AcquireLease(resources=(Resource("file", path),), strict=True, wait_ms=wait_ms, agent=client.agent)
    return client.call(request, timeout_s=60)


@pytest.mark.timeout(180)
def test_twenty_agents_at_once_cost_a_handful_of_pushes(four: list[Member]) -> None:
    agents = [four[number % len(four)].client(f"agent-{number}") for number in range(AGENTS)]
    before = len(list(chain_of(remote_of(four[0]))))
    outcomes = at_once([partial(ask, agent, f"src/{number}.py") for number, agent in enumerate(agents)])
    tokens = [outcome.lease.token for outcome in outcomes if outcome.lease is not None]
    assert len({token for token in tokens if token is not None}) == AGENTS, f"each has a token of its own: {outcomes}"
    chain = list(chain_of(remote_of(four[0])))
    assert 1 <= len(chain) - before <= HANDFUL
    assert sorted(entry.token for entry in chain[-1].entries.values()) == sorted(token for token in tokens if token is not None)

    at_once([agent.release_all for agent in agents])
    wait_for("the table is empty", lambda: not list(chain_of(remote_of(four[0])))[-1].entries, 30)
    after = list(chain_of(remote_of(four[0])))
    assert len(after) - len(chain) <= HANDFUL


@pytest.mark.timeout(180)
def test_twenty_agents_take_turns_at_one_thing(four: list[Member]) -> None:
    """Each has it once, and each grant has a greater token than the one before."""
    agents = [four[number % len(four)].client(f"turn-{number}") for number in range(AGENTS)]
    held: list[int] = []

    def turn(agent: Client) -> None:
        outcome = ask(agent, "the/one.py", wait_ms=60_000)
        assert outcome.lease is not None, outcome
        assert outcome.lease.token is not None
        held.append(outcome.lease.token)  # while it has it, so in the order of the turns
        agent.release_all()

    at_once([partial(turn, agent) for agent in agents])
    assert len(held) == AGENTS
    assert held == sorted(set(held))
