"""An upgrade is one clone after the other: for a while, daemons of two versions are one swarm.

The older one is real: it is made from an old commit of this repository, from before there were relays, messages between agents,
probes on links and rare beats, and runs in this environment. Where the history is not there (a shallow clone), that is skipped, and
what holds by itself is tested elsewhere: `tests/core/test_wire.py` (what a newer peer says), `tests/conformance/test_links.py` (a
link without probes).
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.e2e.clones import Clone, connected, repository, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
OLDER: Final = "373a3593b21d27309d73312c8f90c68776102502"
OFTEN: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put before all others that Python looks for the package in."""
    packed = subprocess.run(["git", "archive", OLDER, "src"], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"commit {OLDER[:10]} is not in this clone's history: {packed.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    assert not (folder / "src" / "sudocode_coordination" / "core" / "relays.py").exists()
    return folder / "src"


class OlderClone(Clone):
    """Everything in it is of the older version."""

    def __init__(self, clone: Clone, source: Path) -> None:
        super().__init__(clone.folder)
        self._source = str(source)

    def coord(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return super().coord(*arguments, PYTHONPATH=self._source, **options)


@contextmanager
def mixed(older: Path) -> Iterator[tuple[Clone, Clone, Clone]]:
    """Ann is of the older version, ben and cid of this one; ben relays."""
    with repository("ann", "ben", "cid") as (first, ben, cid):
        ann = OlderClone(first, older)
        ann.start(*OFTEN)
        ben.start(*OFTEN, "--set", "relay_service=true")
        cid.start(*OFTEN)
        wait_for("all meet", lambda: connected(ann, ben, cid), 60)
        yield ann, ben, cid


def held_by(clone: Clone, path: str) -> list[str]:
    return [holder["agentId"] for holder in clone.json("lease", path, expect=3)["holders"]]


def test_both_versions_are_one_swarm(older: Path) -> None:
    with mixed(older) as (ann, ben, cid):
        for holder, others in ((ann, (ben, cid)), (ben, (ann, cid))):
            path = f"of-{holder.name}.py"
            lease = wait_for("a quorum", lambda h=holder, p=path: quorum(h, p), 30)  # type: ignore[misc]
            assert lease["agentId"] == holder.name
            for other in others:
                assert held_by(other, path) == [holder.name]

        # Taken over by a higher priority, and waited for, across versions.
        assert ben.json("lease", "of-ann.py", "--priority", "9")["granted"]
        wait_for("ann knows that it is lost", lambda: ann.events("lease-lost"))
        waiting = ann.popen("lease", "of-ben.py", "--wait", "60s")
        wait_for("ann waits", lambda: [lease for lease in ben.json("leases", "--all")["leases"] if lease["state"] == "pending"], 30)
        ben.coord("release", "of-ben.py")
        assert waiting.wait(60) == 0
        waiting.communicate()

        # The document goes both ways.
        ann.coord("issue", "update", "#1", "--status", "open", "--title", "by the older one")
        ben.coord("issue", "update", "#2", "--status", "done", "--title", "by the newer one")
        for clone in (ann, ben, cid):
            wait_for("both are seen", lambda c=clone: seen(c, "#1") and seen(c, "#2"), 30)  # type: ignore[misc]

        assert ann.json("lease", "strict.py", "--strict")["lease"]["token"] >= 1
        assert held_by(cid, "strict.py") == ["ann"]
        for clone in (ann, ben, cid):
            assert clone.json("status")["problems"] == []

        # What the older one has never heard of: a message between agents. It keeps nothing more of what its author shares, and says
        # so (later versions keep what they do not know, see `tests/core/test_later_roots.py`). Leases do not depend on that.
        ben.coord("say", "can you hear me?")
        wait_for("who can hears it", lambda: "can you hear me?" in cid.coord("messages").stdout, 30)
        problems = wait_for("ann says it", lambda: ann.json("status")["problems"], 30)
        assert all("an unknown root map" in problem for problem in problems)
        assert ben.json("lease", "after.py")["granted"]
        assert held_by(ann, "after.py") == ["ben"]
        assert ann.json("lease", "too.py")["granted"]
        assert held_by(ben, "too.py") == ["ann"]

        for clone in (ann, ben, cid):
            assert clone.events("peer-disconnected") == [], f"{clone.name}: nothing of that ends a connection"
        for clone in (ben, cid):
            assert clone.json("status")["problems"] == []


def quorum(clone: Clone, path: str) -> Any:
    lease = clone.json("lease", path)["lease"]
    return lease if lease["grade"] == "quorum" else None


def seen(clone: Clone, issue: str) -> bool:
    return bool(clone.json("issue", "show", issue)["issues"])


def test_a_clone_is_upgraded_and_goes_on_with_what_it_has(older: Path) -> None:
    with mixed(older) as (ann, ben, _):
        ann.coord("issue", "update", "#1", "--title", "from before")
        ann.coord("issue", "update", "#9", "--title", "not yet for others", "--draft")
        wait_for("ben has it", lambda: seen(ben, "#1"), 30)
        peer = ann.json("status")["peerId"]
        ann.kill()  # the machine was switched off in the middle of it
        new = Clone(ann.folder)
        new.start(*OFTEN)
        wait_for("they meet", lambda: connected(new, ben), 60)
        assert new.json("status")["peerId"] == peer
        assert seen(new, "#1")
        assert "not yet for others" in json.dumps(new.json("draft", "list"))
        assert new.json("status")["problems"] == []
        new.coord("issue", "update", "#1", "--title", "from after")
        wait_for("ben has that", lambda: "from after" in json.dumps(ben.json("issue", "show", "#1")), 30)
        assert new.json("lease", "x.py")["granted"]
        assert held_by(ben, "x.py") == ["ann"]
