"""`coord mcp` as coding agents run it: real MCP clients over stdio, two clones, real daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.shared.subscriptions import ResourceUpdated
from mcp.types import CallToolResult, Implementation
from tests.e2e.clones import COORD, Clone, connected, repository, wait_for

pytestmark = [pytest.mark.usefixtures("warm_daemons"), pytest.mark.timeout(240)]
LIMIT_S: Final = 30.0
"""For what another clone sees, on a machine that is busy."""


@asynccontextmanager
async def mcp_client(clone: Clone, name: str, mode: str) -> AsyncIterator[Client]:
    """A client of the library's, and a server of its own."""
    server = StdioServerParameters(command=COORD, args=["mcp"], cwd=clone.folder, env=dict(os.environ))
    async with Client(server, client_info=Implementation(name=name, version="1"), mode=mode, cache=None) as client:
        yield client


async def call(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured output; the client checks it against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.content[0].type == "text"
    assert result.content[0].text
    found: dict[str, Any] = result.structured_content or {}
    return found


def error(result: CallToolResult) -> dict[str, str]:
    assert result.is_error
    assert result.structured_content is not None
    found: dict[str, str] = result.structured_content["error"]
    return found


async def until(what: str, look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` gives, once it is true."""
    with anyio.fail_after(LIMIT_S):
        while True:
            found = await look()
            if found:
                return found
            await anyio.sleep(0.05)
    raise AssertionError(what)


def hook(clone: Clone, event: str, **more: str) -> None:
    told = json.dumps(
        {"session_id": "11111111-aaaa-4bbb-8ccc-000000000007", "cwd": str(clone.folder), "hook_event_name": "x", **more}
    )
    subprocess.run(
        [COORD, "hook", event, "--for", "claude"], cwd=clone.folder, input=told, text=True, check=True, capture_output=True
    )


def holders(clone: Clone, state: str = "granted") -> set[str]:
    return {lease["agentId"] for lease in clone.json("leases", "--all")["leases"] if lease["state"] == state}


def waiting(clone: Clone) -> set[str]:
    return holders(clone, "pending")


def test_two_agents_on_two_clones() -> None:
    with repository("alice", "bob") as (alice, bob):
        bob.start()
        # Bob's coding agent has hooks: its session is known by the process that runs both them and the server, which is this one.
        hook(bob, "session-start")
        anyio.run(_story, alice, bob)
        # The servers have ended, and who came with one of them is gone with it: here, and as the other clone sees it.
        wait_for("agents to leave", lambda: "tester" not in json.dumps(alice.json("status")["agents"]), LIMIT_S)
        wait_for("their leases to end", lambda: not [who for who in holders(bob) if who.startswith("tester")], LIMIT_S)
        # But a session of hooks ends when they say so.
        assert holders(bob) == {"claude-000000000007"}


async def _story(alice: Clone, bob: Clone) -> None:
    async with mcp_client(alice, "Tester", "legacy") as a, mcp_client(bob, "other", "auto") as b:
        await _without_a_daemon(alice, a)
        await anyio.to_thread.run_sync(alice.start)
        await until("both are connected", lambda: anyio.to_thread.run_sync(connected, alice, bob))
        me = (await call(a, "status"))["agentId"]
        assert me.startswith("tester-")
        status = await call(b, "status")
        other = status["agentId"]
        assert other == "claude-000000000007"
        assert {one["agentId"] for one in status["agents"]} >= {"alice", "bob", other}
        await _work(a, b, me)
        await _leases(a, b, me, other)
        await _cancelled(a, bob, other)
        await _resources(a, b)
        third = await call(a, "lease", resources=["docs/"], agent="tester-sub")
        assert third["lease"]["agentId"] == "tester-sub"
        assert not (await call(a, "lease", resources=["docs/x.md"]))["granted"]
        await _another_daemon(alice, a, me)


async def _without_a_daemon(alice: Clone, a: Client) -> None:
    refused = error(await a.call_tool("status", {}))
    assert refused["code"] == "no-daemon"
    assert "coord start" in refused["hint"]
    with pytest.raises(MCPError, match="coord start"):
        await a.read_resource("coord://status")
    outside = await a.call_tool("lease", {"resources": []})
    assert outside.is_error  # refused by the input schema
    assert not (alice.state_dir / "daemon.json").exists()


async def _work(a: Client, b: Client, me: str) -> None:
    claimed = await call(a, "claim_work", issues=["#42"], files=["src/auth.py"], status="token refresh")
    assert claimed["work"]["files"] == ["src/auth.py"]

    async def seen() -> Any:
        return [one for one in (await call(b, "who_does_what", of=me))["work"] if one["status"] == "token refresh"]

    ((work),) = await until("the other clone sees the work", seen)
    assert (work["agentId"], work["issues"]) == (me, ["#42"])
    denied = await call(b, "claim_work", issues=["#42"])
    assert (denied["granted"], denied["work"]) == (False, None)
    assert denied["holders"][0]["agentId"] == me
    # Another issue in its place: the first one is free again.
    await call(a, "claim_work", issues=["issue:#43"])
    taken = await call(b, "claim_work", issues=["#42"])
    assert taken["granted"]
    await call(a, "update_issue_or_spec", kind="issue", name="#43", fields={"status": "in-progress", "checklist": {"x": True}})

    async def updated() -> Any:
        return [one["fields"] for one in (await call(b, "who_does_what"))["updates"] if one["name"] == "issue:#43"]

    (fields,) = await until("live fields of an issue", updated)
    assert fields["checklist"]["value"] == {"x": True}
    assert fields["status"]["agentId"] == me
    assert error(await a.call_tool("claim_work", {}))["code"] == "usage"


async def _leases(a: Client, b: Client, me: str, other: str) -> None:
    """Denied, waited for with progress, asked for, handed over."""
    granted = await call(a, "lease", resources=["src/auth.py"], note="refactoring")
    assert granted["lease"]["resources"] == ["src/auth.py"]
    denied = await call(b, "lease", resources=["src/auth.py", "src/free.py"])
    assert (denied["granted"], denied["lease"], denied["reason"]) == (False, None, "held")
    assert [(one["agentId"], one["note"]) for one in denied["holders"]] == [(me, "refactoring")]
    assert "wait_for_lease" in denied["next"]
    assert (await call(b, "check_paths", resources=["src/free.py"]))["free"]
    assert not (await call(b, "check_paths", resources=["src/"]))["free"]
    assert error(await b.call_tool("lease", {"resources": ["/etc/passwd"]}))["code"] == "resource"

    told: list[tuple[float, float | None, str | None]] = []
    in_line = anyio.Event()
    outcome: list[CallToolResult] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        in_line.set()

    async def wait() -> None:
        arguments = {"resources": ["src/auth.py"], "seconds": 600}
        outcome.append(await b.call_tool("wait_for_lease", arguments, progress_callback=progress))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        with anyio.fail_after(LIMIT_S):
            await in_line.wait()
        said = await call(b, "say", about="src/auth.py", ask_release=True)
        assert said["to"] == [me]

        async def unread() -> Any:
            return (await call(a, "status"))["unread"]

        await until("the question has come", unread)
        caught_up = await call(a, "catch_up")
        (message,) = caught_up["messages"]
        assert (message["agentId"], message["kind"], message["resource"]) == (other, "release", "src/auth.py")
        assert [one["agentId"] for one in caught_up["leases"] if one["state"] == "pending"] == [other]
        await call(a, "say", text="it is yours", reply_to=message["messageId"])
        released = await call(a, "release", resources=["src/auth.py"])
        assert [one["resources"] for one in released["released"]] == [["src/auth.py"]]
    assert told[0][1:] == (600.0, f"place 1 in line; src/auth.py: held by {me} (priority 0): refactoring")
    structured = outcome[0].structured_content
    assert structured is not None
    assert structured["granted"]
    # What the holder before left behind: the commit that is there already.
    assert structured["lease"]["handover"]["commit"] == released["leftBehind"] != ""

    async def answered() -> Any:
        return (await call(b, "catch_up"))["messages"]

    assert [one["text"] for one in await until("the answer", answered)] == ["it is yours"]


async def _cancelled(a: Client, bob: Clone, other: str) -> None:
    """A wait that the client cancels leaves the line."""
    in_line = anyio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        assert progress <= (total or 0)
        assert f"held by {other}" in (message or "")
        in_line.set()

    async with anyio.create_task_group() as group:

        async def wait() -> None:
            await a.call_tool("wait_for_lease", {"resources": ["src/auth.py"], "seconds": 600}, progress_callback=progress)

        group.start_soon(wait)
        with anyio.fail_after(LIMIT_S):
            await in_line.wait()
        await until("in line, as the other clone sees it", lambda: anyio.to_thread.run_sync(waiting, bob))
        group.cancel_scope.cancel()

    async def nobody() -> bool:
        return not await anyio.to_thread.run_sync(waiting, bob)

    await until("nobody waits any more", nobody)
    late = await call(a, "wait_for_lease", resources=["src/auth.py"], seconds=1)
    assert (late["granted"], late["reason"]) == (False, "timeout")


async def _resources(a: Client, b: Client) -> None:
    """They have what is so now, and tell who listens when it changes."""
    content = (await b.read_resource("coord://leases")).contents[0]
    leases = json.loads(content.model_dump()["text"])["leases"]
    assert ["file", "src/auth.py"] in [resource for lease in leases for resource in lease["resources"]]
    async with b.listen(resource_subscriptions=["coord://work"]) as changes:
        with anyio.fail_after(LIMIT_S):
            assert await anext(changes) == ResourceUpdated(uri="coord://work")  # from when it is followed
            await call(a, "claim_work", status="something new")
            while "something new" not in (await b.read_resource("coord://work")).contents[0].model_dump()["text"]:
                await anext(changes)


async def _another_daemon(alice: Clone, a: Client, me: str) -> None:
    """A server outlives daemons: a wait ends with an error, and the same agent is there again with the next daemon."""
    waited: list[CallToolResult] = []
    in_line = anyio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        assert (message, progress <= (total or 0)) == ("place 1 in line; docs/: held by tester-sub (priority 0)", True)
        in_line.set()

    async def wait() -> None:
        waited.append(await a.call_tool("wait_for_lease", {"resources": ["docs/"], "seconds": 600}, progress_callback=progress))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        with anyio.fail_after(LIMIT_S):
            await in_line.wait()
        await anyio.to_thread.run_sync(alice.kill)
    assert error(waited[0])["code"] == "no-daemon"
    await anyio.to_thread.run_sync(alice.start)
    assert (await call(a, "status"))["agentId"] == me
    assert (await call(a, "lease", resources=["new.py"]))["granted"]


def test_interrupted_it_ends_though_its_input_is_open(short_tmp: Path) -> None:
    process = subprocess.Popen(
        [COORD, "mcp"], cwd=short_tmp, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": told}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "coord"
        # In no repository: that is for the agent to know, so the server stays up and says it.
        lines = [
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "status", "arguments": {}}},
        ]
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())["result"]
        assert answer["structuredContent"]["error"]["code"] == "not-a-repository"
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 128 + signal.SIGINT
        process.stdin.close()
