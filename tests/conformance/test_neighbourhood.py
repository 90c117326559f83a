"""The folder in which daemons of one user find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from sudocode_coordination.adapters.neighbourhood import Everywhere, Rendezvous
from sudocode_coordination.core.io import Input, RecordsSighted
from sudocode_coordination.core.records import MAX_RECORD_BYTES

CHILD = """
import sys, trio
from pathlib import Path
from sudocode_coordination.adapters.neighbourhood import Rendezvous
shown = Rendezvous("dan", lambda _: None, folder=Path(sys.argv[1]))
shown.show_record(b"of dan")
print("shown", flush=True)
trio.run(shown.run)
"""


class Clone:
    def __init__(self, name: str, folder: Path) -> None:
        self.got: list[Input] = []
        self.port = Rendezvous(name, self.got.append, folder=folder)
        self.scope = trio.CancelScope()

    @property
    def sees(self) -> set[bytes]:
        if not self.got:
            return set()
        last = self.got[-1]
        assert isinstance(last, RecordsSighted)
        return set(last.records)

    async def run(self) -> None:
        with self.scope:
            await self.port.run()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


def test_what_one_shows_the_others_see_until_it_ends(short_tmp: Path) -> None:
    async def main() -> None:
        ann, bob = (Clone(name, short_tmp / "near") for name in ("ann", "bob"))
        ann.port.show_record(b"of ann")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.run)
            nursery.start_soon(bob.run)
            await until(lambda: bob.sees == {b"of ann"})
            bob.port.show_record(b"of bob")
            await until(lambda: ann.sees == {b"of bob"})
            ann.port.show_record(b"of ann, changed")
            await until(lambda: bob.sees == {b"of ann, changed"})
            (short_tmp / "near" / "ann.json").unlink()  # as who cleans up temporary folders does
            await until(lambda: (short_tmp / "near" / "ann.json").exists())
            await until(lambda: bob.sees == {b"of ann, changed"})
            ann.scope.cancel()
            await until(lambda: bob.got and not bob.sees)
            assert names_in(short_tmp / "near") == ["bob.json"]
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not names_in(short_tmp / "near")
    assert (short_tmp / "near").stat().st_mode & 0o777 == 0o700


def test_a_killed_daemon_is_there_no_more(short_tmp: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(short_tmp / "near")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"shown\n"

    async def main() -> None:
        ann = Clone("ann", short_tmp / "near")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.run)
            await until(lambda: ann.sees == {b"of dan"})
            child.kill()
            await trio.to_thread.run_sync(child.wait)
            ann.port.show_record(b"of ann")  # the folder changes: it looks at once
            await until(lambda: not ann.sees)
            nursery.cancel_scope.cancel()

    with child, child.stdout:
        trio.run(main)
    assert not names_in(short_tmp / "near")


def test_what_is_no_record_file_is_left_alone(short_tmp: Path) -> None:
    folder = short_tmp / "near"
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "fifo.json")
    (folder / "folder.json").mkdir()
    (folder / "outside").write_text("x")
    (folder / "Link.json").symlink_to(folder / "outside")
    (folder / "no peer id.json").write_text("x")
    large = Clone("Large", folder)
    large.port.show_record(b"x" * (MAX_RECORD_BYTES + 100))

    async def main() -> None:
        ann = Clone("ann", folder)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.run)
            await until(lambda: ann.sees)
            assert ann.sees == {b"x" * (MAX_RECORD_BYTES + 1)}, "cut where it is too long to be one"
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert {"fifo.json", "folder.json", "outside", "Link.json", "no peer id.json"} < set(names_in(folder))


def test_a_folder_that_can_not_be_used_is_told_in_the_log(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    (short_tmp / "near").write_text("a file")

    async def main() -> None:
        ann = Clone("ann", short_tmp / "near")
        ann.port.show_record(b"of ann")
        ann.port.show_record(b"of ann, changed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.run)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert "are not looked for" in caplog.text


def test_several_neighbourhoods_are_one(short_tmp: Path) -> None:
    async def main() -> None:
        ann, bob = Clone("ann", short_tmp / "near"), Clone("bob", short_tmp / "other")
        both = Everywhere(ann.port, bob.port)
        both.show_record(b"of both")
        async with trio.open_nursery() as nursery:
            await nursery.start(both.run)
            assert (names_in(short_tmp / "near"), names_in(short_tmp / "other")) == (["ann.json"], ["bob.json"])
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not names_in(short_tmp / "near") + names_in(short_tmp / "other")
