"""`coord bridge` as JavaScript tools use it: yjs and y-websocket from npm, on Node.js, against real daemons."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from tests.bridge.nodejs import Program, need_node, program
from tests.e2e.clones import Clone, connected, repository, wait_for

from sudocode_coordination.api.requests import FollowDocument
from sudocode_coordination.bridge import command, hub
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.core.facts import ROOTS
from sudocode_coordination.core.mirror import Change
from sudocode_coordination.errors import NetworkError
from sudocode_coordination.place import find_clone

pytestmark = pytest.mark.timeout(300)
LIMIT_S: Final = 60.0


@contextmanager
def bridge(clone: Clone, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A bridge that runs, and what its file says."""
    process = clone.popen("bridge", *arguments)
    try:
        yield process, wait_for("bridge.json", lambda: door(clone, process), LIMIT_S)
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def door(clone: Clone, process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """What the file of that bridge says, once it is there."""
    assert process.poll() is None, process.communicate()
    try:
        found: dict[str, Any] = json.loads((clone.state_dir / command.DOOR_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return found if found["pid"] == process.pid else None


@contextmanager
def tool(place: dict[str, Any], **different: Any) -> Iterator[Program]:
    """A client with yjs and y-websocket."""
    with program("bridge_client.mjs") as running:
        running.tell(place | different)
        yield running


def of_daemon(clone: Clone) -> dict[str, dict[str, Any]]:
    """The shared document, as the daemon has it."""
    with Client(find_clone(clone.folder)) as client:
        answer = client.call(FollowDocument())
    found: dict[str, dict[str, Any]] = {root: {} for root in ROOTS}
    for entry in answer.entries:
        found[entry.root][f"{entry.owner}/{entry.key}"] = entry.value
    return found


def leased(content: dict[str, Any]) -> set[tuple[str, str]]:
    return {(lease["agent"], path) for lease in content["leases"].values() for _, path in lease["resources"]}


@pytest.mark.parametrize("names", [("ann",), pytest.param(("ann", "ben"), marks=pytest.mark.slow)], ids=len)
def test_a_tool_sees_the_union_live_and_cannot_write(names: tuple[str, ...]) -> None:
    need_node()
    with repository(*names) as clones:
        ann, other = clones[0], clones[-1]
        for clone in clones:
            clone.start()
        wait_for("all are connected", lambda: connected(*clones), LIMIT_S)
        ann.coord("work", "set", "--issue", "7", "--status", "é \U0001f600")
        ann.coord("issue", "update", "7", "--title", "t", "--set", "n=1.5")
        with bridge(ann) as (process, place), tool(place) as one, tool(place) as two:
            for each in (one, two):
                each.until("it has what was there", lambda said: said.get("synced"))
            # A lease, of another clone if there is one, as it happens.
            other.coord("lease", "src/auth.py")
            for each in (one, two):
                each.until("the lease", lambda said: (other.name, "src/auth.py") in leased(said.get("content", {"leases": {}})))
            one.tell({"do": "content"})
            seen = one.until("its content", lambda said: said.get("asked"))["content"]
            assert seen == of_daemon(ann)
            assert len({name.partition("/")[0] for name in seen["agentMetadata"]}) == len(clones)
            # A write: refused with a reason, and nobody hears of it.
            before = len(two.said)
            one.tell({"do": "write", "root": "leases", "key": "x/y", "value": {"agent": "me"}})
            denied = one.until("the refusal", lambda said: said.get("denied"))["denied"]
            assert "read-only" in denied
            # What one tool tells of itself the others hear, and how the daemon is.
            one.tell({"do": "state", "state": {"name": "one"}})
            shown = two.until("one's state", lambda said: any(s.get("name") == "one" for _, s in said.get("awareness", ())))
            assert [s["bridge"]["daemon"] for _, s in shown["awareness"] if "bridge" in s] == ["up"]
            other.coord("release", "--all")
            gone = two.until("the release", lambda said: "content" in said and not leased(said["content"]), after=before)
            assert all("x/y" not in said.get("content", {"leases": {}})["leases"] for said in two.said)
            assert of_daemon(ann) == gone["content"]
            # Who may not come in.
            check_refusals(place, everything=len(clones) > 1)
            # Nothing of the token is where others look.
            assert stat.S_IMODE((ann.state_dir / command.DOOR_FILE).stat().st_mode) == 0o600
            looks = psutil.Process(process.pid)
            assert place["token"] not in " ".join([*looks.cmdline(), *looks.environ().values()])
            assert place["token"] not in "".join(path.read_text("utf-8", "replace") for path in ann.state_dir.glob("*.log*"))
            # The end.
            process.send_signal(signal.SIGINT)
            for each in (one, two):
                each.until("it is cut off", lambda said: said.get("status") == "disconnected")
            output, errors = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, errors
            assert place["token"] not in output + errors
            assert not (ann.state_dir / command.DOOR_FILE).exists()


def check_refusals(place: dict[str, Any], *, everything: bool) -> None:
    with tool(place, token="A" * 43) as stranger:
        assert stranger.until("wrong token", lambda said: said.get("closed"))["closed"] == 4401
        assert not any(said.get("synced") for said in stranger.said)
    if not everything:  # test_server has the rest, by another client
        return
    port = place["url"].rpartition(":")[2]
    with (
        tool(place, room="coord-0") as latecomer,
        tool(place, headers={"Origin": "https://evil.example"}) as page,
        tool(place, headers={"Host": f"evil.example:{port}"}) as rebound,
    ):
        assert latecomer.until("wrong room", lambda said: said.get("closed"))["closed"] == 4404
        for each in (page, rebound):
            assert each.until("refused", lambda said: said.get("refused"))["refused"] == 403
        assert not any(said.get("synced") for each in (latecomer, page, rebound) for said in each.said)


@pytest.mark.slow
def test_the_daemon_goes_and_comes_back_and_the_tool_keeps_its_document() -> None:
    need_node()
    with repository("ann") as (ann,):
        ann.start()
        ann.coord("lease", "a.py")
        with bridge(ann) as (process, place), tool(place) as one:
            one.until("the lease", lambda said: ("ann", "a.py") in leased(said.get("content", {"leases": {}})))
            ann.kill()
            one.until("the daemon is gone", lambda said: says_of_daemon(said, "gone"))
            ann.start()
            ann.coord("lease", "b.py")
            again = one.until("the new lease", lambda said: ("ann", "b.py") in leased(said.get("content", {"leases": {}})))
            assert leased(again["content"]) == {("ann", "b.py")}
            one.until("the daemon is back", lambda said: says_of_daemon(said, "up"), after=one.said.index(again) - 5)
            one.tell({"do": "content"})
            assert one.until("its content", lambda said: said.get("asked"))["content"] == of_daemon(ann)
            assert [said["synced"] for said in one.said if "synced" in said] == [True]
            os.kill(process.pid, signal.SIGHUP)
            _, errors = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0
            assert "the daemon is gone" in errors
            assert "the daemon answers" in errors


def says_of_daemon(said: dict[str, Any], what: str) -> bool:
    return any(state.get("bridge", {}).get("daemon") == what for _, state in said.get("awareness", ()))


@pytest.mark.slow
def test_without_a_daemon_or_with_a_bridge_already_or_on_a_taken_port_it_says_so() -> None:
    with repository("ann") as (ann,):
        refused = ann.json("bridge", expect=4)["error"]
        assert (refused["code"], bool(refused["hint"])) == ("no-daemon", True)
        assert ann.json("bridge", "--origin", "localhost:1", expect=2)["error"]["code"] == "usage"
        ann.start()
        with bridge(ann, "--json") as (process, place):
            second = ann.json("bridge", expect=1)["error"]
            assert second["code"] == "already-running"
            assert str(ann.state_dir / command.DOOR_FILE) in second["hint"]
            port = place["url"].rpartition(":")[2]
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=LIMIT_S)
            assert (process.returncode, errors) == (0, "")
            told = json.loads(output)
            assert told == {
                "url": place["url"],
                "room": place["room"],
                "file": str(ann.state_dir / command.DOOR_FILE),
                "readOnly": True,
            }
        (ann.state_dir / command.DOOR_FILE).mkdir()
        assert ann.json("bridge", expect=1)["error"]["code"] == "storage"
        with taken(int(port)):
            assert ann.json("bridge", "--port", port, expect=1)["error"]["code"] == "network"


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((command.HOST, port))
        listener.listen()
        yield


def test_what_fails_in_a_task_is_told_like_any_error() -> None:
    wanted = NetworkError("x")
    assert command._first(BaseExceptionGroup("outer", [ExceptionGroup("inner", [wanted]), KeyError("y")])) is wanted


def test_a_room_that_has_grown_old_makes_way_for_a_new_one(short_tmp: Path) -> None:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    replaced: list[str] = []
    served = hub.Hub(find_clone(short_tmp), on_new_room=lambda old: replaced.append(old.name))
    first = served.room
    first.mirror.change([Change("leases", "a/x", 1)])
    served._begin_anew()
    assert replaced == [first.name]
    assert served.room.name != first.name
    assert served.room.mirror.client_id != first.mirror.client_id
    assert served.room.mirror.content() == first.mirror.content() == {("leases", "a/x"): 1}
