"""`coord demo`: every step holds, quickly, and nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
from tests.e2e.clones import COORD, wait_for

STEPS = ["start", "meet", "share", "lease", "denied", "wait", "hand over", "take over", "told", "kill", "recover", "leave"]


def daemons() -> set[int]:
    """Daemons of demos."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if "sudocode_coordination.daemon" in line and any("/coord-demo-" in word for word in line):
            found.add(process.info["pid"])
    return found


def folders() -> set[Path]:
    return {path for place in ("/tmp", tempfile.gettempdir()) for path in Path(place).glob("coord-demo-*")}


def test_demo() -> None:
    before = daemons(), folders()
    done = subprocess.run([COORD, "demo", "--json"], capture_output=True, text=True, timeout=60, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    assert document["ok"] is True
    assert [step["step"] for step in document["steps"]] == STEPS
    assert document["elapsedMs"] < 30_000
    assert set(document["steps"][0]) == {"atMs", "tookMs", "who", "step", "text"}
    assert (daemons() - before[0], folders() - before[1]) == (set(), set())


def test_interrupted_it_leaves_nothing() -> None:
    before = daemons(), folders()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with subprocess.Popen([COORD, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for("its daemons run", lambda: len(daemons() - before[0]) == 3, 20.0)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (code, ""), out
        assert (daemons() - before[0], folders() - before[1]) == (set(), set())
