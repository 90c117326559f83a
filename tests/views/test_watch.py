"""`coord watch` as a person has it: a terminal, real daemons, two clones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.e2e.clones import COORD, Clone, repository, wait_for
from tests.views.terminal import Terminal

from sudocode_coordination.cli.run import command
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.model import Resource
from sudocode_coordination.place import find_clone
from sudocode_coordination.views import watch
from sudocode_coordination.views.live import Live

pytestmark = pytest.mark.timeout(240)
Snapshot = Callable[[str, str], None]
ESCAPE = "\x1b"
HOSTILE = "\x1b]0;owned\x07 \x1b[2J docs"
NOTE = "token refresh"


def opened(clone: Clone) -> Client:
    """A client, which costs less than the command."""
    return Client(find_clone(clone.folder), folder=clone.folder)


def test_a_day_at_the_terminal(snapshot: Snapshot) -> None:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        with opened(alice) as here, opened(bob) as there, Terminal([COORD, "watch"], alice.folder) as seen:
            seen.until("it is live", "nobody holds a lease")
            seen.until("bob is there", "3 Agents 2")
            seen.press("3")
            seen.until("they are connected", lambda text: re.search(r"bob +direct", text))
            seen.press("1")
            _a_lease_elsewhere(seen, there, snapshot)
            _inspected(seen, snapshot)
            _asked_and_answered(seen, there)
            _released(seen, here)
            _wide(seen, snapshot)
            seen.press("q")
            assert seen.ended() == 0
            # What came from elsewhere does not steer the terminal, and it is left as it was.
            assert b"owned" in seen.raw
            assert b"\x1b]0" not in seen.raw
            assert b"\x1b[?1049l" in seen.raw
            assert b"\x1b[?25h" in seen.raw


def _a_lease_elsewhere(seen: Terminal, bob: Client, snapshot: Snapshot) -> None:
    assert bob.acquire_lease("src/auth.py", note=NOTE)
    assert bob.acquire_lease("docs/", note=HOSTILE)
    bob.set_work(files=["src/auth.py"], status="Token refresh")
    seen.until("both leases and the work", lambda text: "docs/" in text and "src/auth.py" in text and "2 Work 1" in text)
    first = seen.until("time left", lambda text: re.search(r"docs/ .* 4m[0-5]\ds", text))
    seen.until("it counts down", lambda text: "4m" in text and text != first)
    snapshot("leases-80", seen.text)
    seen.press("/token")
    seen.until("only what matches", lambda text: "docs/" not in text and "src/auth.py" in text)
    seen.press("\r")
    seen.until("the filter", "(1 shown; Esc: all)")
    seen.press(ESCAPE)
    seen.until("all again", lambda text: "docs/" in text and "filter" not in text.replace("/ filter", ""))


def _inspected(seen: Terminal, snapshot: Snapshot) -> None:
    seen.press("G\r")
    seen.until("the lease in full, with its history", lambda text: "Lease: src/auth.py" in text and "history" in text)
    snapshot("inspect-80", seen.text)
    seen.press(ESCAPE)
    seen.until("the lists again", "Enter inspect")


def _asked_and_answered(seen: Terminal, bob: Client) -> None:
    seen.press("a")
    seen.until("the question", "ask bob")
    seen.press("only the imports\r")
    seen.until("what was done", "said to bob")
    (question,) = wait_for("bob is asked", bob.messages, 30.0)
    assert (question.kind, question.text, question.resource) == ("release", "only the imports", Resource("file", "src/auth.py"))
    assert (question.agent_id, question.to) == ("alice", ("bob",))
    bob.send_message("in ten minutes", to=question.agent_id, reply_to=question.message_id)
    seen.until("an answer", "6 Messages 1")
    seen.press("6")
    seen.until("it", "in ten minutes")
    seen.press("gm")
    seen.until("whom it goes to", "to bob:")
    seen.press("thanks\r")
    wait_for("bob has it", lambda: "thanks" in {message.text for message in bob.messages()}, 30.0)
    seen.until("it is answered", lambda text: re.search(r"sent +alice \* +bob +thanks", text))
    seen.press("gjx")
    seen.until("no new one", "6 Messages 0")
    assert [m.acknowledged_by for m in bob.messages(everything=True) if m.text == "in ten minutes"] == [("alice",)]
    seen.press("1")


def _released(seen: Terminal, alice: Client) -> None:
    assert alice.acquire_lease("src/own.py")
    seen.until("the own lease", "src/own.py")
    seen.press("Gr")
    seen.until("a question", "Release src/own.py? (y/n)")
    seen.press("y")
    seen.until("it is gone", "released src/own.py")
    assert alice.leases() == ()
    seen.until("the list has it", "[1 Leases 2]")
    seen.press("r")  # bob's
    seen.until("why not", "bob holds it, in another clone")
    seen.press(ESCAPE)
    seen.until("that is read", lambda text: "error" not in text)


def _wide(seen: Terminal, snapshot: Snapshot) -> None:
    seen.resize(120, 40)
    seen.press("g")
    # All of it, and laid out for this width: the first picture after a change of size may be wrapped for the one before.
    shown = ("Lease: docs/", ", unless it is renewed", "WHAT HAS HAPPENED", "bob work-started src/auth.py")
    seen.until("more", lambda text: all(words in text for words in shown))
    lines = seen.lines
    events = next(number for number, line in enumerate(lines) if line.endswith("▏ Events"))
    # What happened comes in an order of its own.
    lists = [line.split("▏")[0] + "▏" for line in lines[events + 2 : -2]]
    snapshot("leases-120", "\n".join([*lines[: events + 2], *lists, *lines[-2:]]))
    seen.resize(80, 24)
    seen.until("less again", lambda text: "▏" not in text)


@pytest.mark.slow
def test_without_a_terminal_or_colours() -> None:
    with repository("alice") as (alice,):
        alice.start()
        alice.coord("lease", "src/auth.py")
        document = alice.json("watch")
        assert [lease["agentId"] for lease in document["leases"]] == ["alice"]
        assert "lease-acquired" in {event["type"] for event in document["events"]}
        done = alice.coord("watch", expect=2)
        assert done.stdout == ""
        assert "needs a terminal" in done.stderr
        assert "coord events --follow" in done.stderr
        with Terminal([COORD, "watch"], alice.folder, TERM="dumb") as seen:
            assert seen.ended() == 2
        assert "TERM is dumb" in seen.text
        for no_color, code, keys in (("1", 130, "\x03"), ("", 143, "")):
            with Terminal(["env", *(["NO_COLOR=1"] if no_color else []), COORD, "watch"], alice.folder) as seen:
                seen.until("it is live", "src/auth.py")
                _put_aside(seen)
                if keys:
                    seen.press(keys)
                else:
                    seen.process.terminate()
                assert seen.ended() == code
            assert bool(colours(seen.raw)) is not bool(no_color)
            assert b"\x1b[?1049l" in seen.raw


def _put_aside(seen: Terminal) -> None:
    process = psutil.Process(seen.process.pid)
    seen.press("\x1a")
    wait_for("it is put aside", lambda: process.status() == psutil.STATUS_STOPPED, 30.0)
    assert bytes(seen.raw).count(b"\x1b[?1049l") == 1  # the shell's screen
    seen.process.send_signal(signal.SIGCONT)
    wait_for("it is back", lambda: bytes(seen.raw).count(b"\x1b[?1049h") == 2, 30.0)
    seen.press("2")
    seen.until("it goes on", "[2 Work")


def colours(raw: bytearray) -> set[int]:
    """Colours that were set, as SGR has them; the terminal's own are none."""
    found = {int(n) for sequence in re.findall(rb"\x1b\[([\d;]*)m", raw) for n in sequence.split(b";") if n}
    return {n for n in found if n in range(30, 39) or n in range(40, 49) or n in range(90, 108)}


@pytest.mark.slow
def test_the_daemon_dies_and_comes_back(snapshot: Snapshot) -> None:
    with repository("alice") as (alice,), Terminal([COORD, "watch"], alice.folder) as refused:
        assert refused.ended() == 4  # as every command, if there is none to begin with
        alice.start()
        with opened(alice) as client:
            assert client.acquire_lease("src/auth.py", note=NOTE)
        with Terminal([COORD, "watch"], alice.folder) as seen:
            seen.until("it is live", "src/auth.py")
            alice.kill()
            seen.until("it is gone", lambda text: "NO DAEMON" in text and "no daemon runs in" in text and "src/auth.py" in text)
            snapshot("gone-80", seen.text)
            seen.press("M" + "hello\r")
            seen.until("why nothing is said", "error: no daemon runs in")
            alice.start()
            seen.until("it is back by itself", lambda text: "NO DAEMON" not in text and "live" in text)
            with opened(alice) as client:
                assert client.acquire_lease("src/late.py")
                seen.until("what happens now", "src/late.py")
            seen.press("q")
            assert seen.ended() == 0


@pytest.mark.slow
def test_a_daemon_that_hangs_and_events_that_are_too_many() -> None:
    with repository("alice") as (alice,):
        alice.start()
        with Terminal([COORD, "watch"], alice.folder) as seen, opened(alice) as client:
            seen.until("it is live", "nobody holds a lease")
            os.kill(alice.pid, signal.SIGSTOP)
            try:
                seen.until("it does not answer", lambda text: "NO DAEMON" in text and "did not answer" in text, 60.0)
            finally:
                os.kill(alice.pid, signal.SIGCONT)
            seen.until("it answers", lambda text: "live" in text and "NO DAEMON" not in text)
            # The view stands still, and the daemon gives up telling it events; then it goes on, and knows all of it.
            seen.process.send_signal(signal.SIGSTOP)
            for number in range(1_500):
                client.set_work(files=[f"f{number}"], status="x" * 1_000)
            assert client.acquire_lease("src/after.py")
            seen.process.send_signal(signal.SIGCONT)
            seen.until("what happened meanwhile", "src/after.py")
            assert "reads events too slowly" in (alice.state_dir / "daemon.log").read_text()
            seen.press("2")
            seen.until("the last work", "f1499")
            seen.until("it is live again", lambda text: "live" in text and "NO DAEMON" not in text)
            seen.press("q")
            assert seen.ended() == 0


@pytest.mark.slow
def test_without_a_daemon() -> None:
    with repository("alice") as (alice,):
        with Terminal([COORD, "watch"], alice.folder) as seen:
            assert seen.ended() == 4
        assert "no daemon runs in" in seen.text
        assert "coord start" in seen.text
        assert alice.json("watch", expect=4)["error"]["code"] == "no-daemon"


def test_no_other_command_loads_what_draws(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    script = (
        "import sys; from sudocode_coordination.cli.run import run, command\n"
        "run(['help', 'watch']); run(['watch']); run(['status']); run(['watch', '--json']); command('watch')\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'textual'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "needs a terminal" in done.stderr
    assert json.loads(done.stdout.splitlines()[-2])["error"]["code"] == "no-daemon"
    assert command("watch") is watch.watch
    assert Live.__module__ == "sudocode_coordination.views.live"
