"""The command: where it listens, who may know of it, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import Final

import trio

from sudocode_coordination.bridge.hub import Hub
from sudocode_coordination.bridge.room import Room
from sudocode_coordination.bridge.server import NEW_ROOM, Server
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.cli.session import Session
from sudocode_coordination.errors import AlreadyRunningError, NetworkError, StorageError, UsageError
from sudocode_coordination.place import Clone, private_dir

HOST: Final = "127.0.0.1"
DOOR_FILE: Final = "bridge.json"
"""In the state folder, 0600: `{url, room, token, pid}` of the bridge that runs."""
LOCK_FILE: Final = "bridge.lock"
"""In the state folder; locked for as long as a bridge runs."""
TOKEN_BYTES: Final = 32
"""256 bits: nobody guesses it."""
MAX_ORIGINS: Final = 16
"""Pages are named one by one on the command line."""
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+\Z")


class Door:
    """What clients need to get in: in a file that only this user can read, never in a log, an argument or the environment."""

    def __init__(self, clone: Clone, port: int) -> None:
        self.path = Path(clone.state_file(DOOR_FILE))
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self.url = f"ws://{HOST}:{port}"
        self._written = False

    def document(self, room: str) -> dict[str, object]:
        """The file's content."""
        return {"url": self.url, "room": room, "token": self.token, "pid": os.getpid()}

    def open(self, room: str) -> None:
        """Write it, in one step.

        Raises:
            StorageError: it can't be written.
        """
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        try:
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(self.document(room), file)
                file.write("\n")
            fresh.replace(self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise StorageError(f"{self.path} can't be written: {error.strerror}") from error
        self._written = True

    def close(self) -> None:
        """Take it away."""
        if self._written:
            self.path.unlink(missing_ok=True)


def bridge(session: Session, args: Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        NoDaemonError: no daemon runs.
        AlreadyRunningError: a bridge of this clone runs.
        NetworkError: the port is taken.
        UsageError: an origin is none.
    """
    origins = tuple(args.origin)
    if len(origins) > MAX_ORIGINS or not all(_ORIGIN.match(origin) for origin in origins):
        hint = f"scheme, host and port alone; at most {MAX_ORIGINS}"
        raise UsageError("--origin takes pages like http://localhost:5173", hint=hint)
    lock = _lock(session.clone)
    try:
        trio.run(_serve, session, args.port, origins)
    except BaseExceptionGroup as group:
        # What the command line knows how to tell is one error: that of whichever task failed first.
        raise _first(group) from None
    finally:
        os.close(lock)
    return 0


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _lock(clone: Clone) -> int:
    """A descriptor that holds the lock.

    Raises:
        AlreadyRunningError: another bridge has it.
        StorageError: it can't be had.
    """
    private_dir(clone.state_dir)
    lock = -1
    try:
        lock = os.open(clone.state_file(LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        hint = f"what it serves is told in {clone.state_file(DOOR_FILE)}"
        raise AlreadyRunningError("a bridge of this clone runs already", hint=hint) from None
    except OSError as error:
        raise StorageError(f"the lock of the bridge can't be had: {error.strerror}") from error
    return lock


async def _serve(session: Session, port: int, origins: tuple[str, ...]) -> None:
    screen = session.screen
    listener = await _listen(port)
    port = listener.socket.getsockname()[1]
    door = Door(session.clone, port)

    def replaced(old: Room) -> None:
        door.open(hub.room.name)
        server.close_room(old, NEW_ROOM)

    def daemon(gone: str) -> None:
        screen.note(f"the daemon is gone ({gone}): what was known is still shown" if gone else "the daemon answers")

    hub = Hub(session.clone, on_new_room=replaced)
    server = Server(lambda: hub.room, token=door.token, port=port, origins=origins)
    client = await hub.open()
    hub.on_daemon = daemon
    try:
        # The hang-up is a terminal that was closed.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            door.open(hub.room.name)
            _tell(screen, door, hub.room)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, listener)
                nursery.start_soon(server.ping)
                nursery.start_soon(hub.beat)
                nursery.start_soon(hub.follow, client)
                async for _ in signals:
                    break
                door.close()
                await server.goodbye()
                nursery.cancel_scope.cancel()
    finally:
        door.close()


async def _listen(port: int) -> trio.SocketListener:
    try:
        return (await trio.open_tcp_listeners(port, host=HOST))[0]
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "without --port a free one is taken"
        raise NetworkError(f"port {port} on {HOST} can't be listened on: {why}", hint=hint) from error


def _tell(screen: Screen, door: Door, room: Room) -> None:
    place = {"url": door.url, "room": room.name, "file": str(door.path), "readOnly": True}
    lines = [f"serves {door.url}/{room.name}, read-only; the token is in {door.path}"]
    if sys.stdout.isatty():  # what goes into a file or a pipe may be read by others
        lines.append(f"{door.url}/{room.name}?token={door.token}")
    screen.show(place, [*lines])
    screen.note("Ctrl-C ends it")
