"""Links between daemons that can be cut, pair by pair, silently: what is sent is lost, and nobody is told.

`Namespaces`: a network namespace for each daemon, all on one bridge. A link is cut by a wrong hardware address for the other
in the table of neighbours, so it needs neither a firewall nor a traffic shaper, only the right to make namespaces.
`Proxies`: for machines without that right. Each daemon announces the address of a TCP proxy in front of it; a cut one
takes what comes and forwards nothing.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import psutil

NOBODY: Final = "02:00:00:00:00:99"
"""A hardware address that no interface has."""
PIECE_BYTES: Final = 64 << 10
"""What a proxy holds of one direction of a connection; while that is not forwarded, it reads no more."""
CONNECTING_S: Final = 5.0
_runs = itertools.count()


class Links(Protocol):
    """The network between daemons that are started through it."""

    def command(self, name: str) -> list[str]:
        """What to put before the command that starts the daemon."""

    def settings(self, name: str) -> list[str]:
        """What to tell it about addresses."""

    def started(self, name: str, pid: int) -> None:
        """Its daemon runs."""

    def cut(self, one: str, other: str) -> None:
        """From now on all is lost between the two, both ways."""

    def heal(self, one: str, other: str) -> None:
        """It is as it was."""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Namespaces:
    """See above.

    Raises:
        OSError: they can't be made here.
    """

    def __init__(self, names: Sequence[str]) -> None:
        run = f"{os.getpid()}-{next(_runs)}"
        self._hub = f"sc-{run}-hub"
        self._spaces = {name: f"sc-{run}-{name}" for name in names}
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        try:
            self._make()
        except OSError:
            self.close()
            raise

    def _make(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        for number, (name, space) in enumerate(self._spaces.items()):
            _ip("netns", "add", space)
            port = f"port{number}"
            _ip("-n", self._hub, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", self._hub, "link", "set", port, "master", "br0")
            _ip("-n", self._hub, "link", "set", port, "up")
            _ip("-n", space, "addr", "add", f"{self._addresses[name]}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove them; processes in them must have ended."""
        for space in (*self._spaces.values(), self._hub):
            with suppress(OSError):
                _ip("netns", "del", space)

    def command(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._spaces[name]}"]

    def settings(self, name: str) -> list[str]:
        return ["--listen", f"/ip4/{self._addresses[name]}/tcp/0"]

    def started(self, name: str, pid: int) -> None:
        """Whose packets they are is plain from where they come."""

    def cut(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            where = (self._addresses[there], "dev", "eth0")
            _ip("-n", self._spaces[here], "neigh", "replace", *where, "lladdr", NOBODY, "nud", "permanent")

    def heal(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            _ip("-n", self._spaces[here], "neigh", "del", self._addresses[there], "dev", "eth0")


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket, pair: frozenset[str]) -> None:
        self.source = source
        self.target = target
        self.pair = pair
        self.data = b""


class Proxies:
    """See above. One thread carries everything."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ports: dict[str, int] = {}
        self._doors: dict[socket.socket, str] = {}
        self._pids: dict[int, str] = {}
        self._pipes: dict[socket.socket, _Pipe] = {}
        self._cut: set[frozenset[str]] = set()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        for name in names:
            with socket.create_server(("127.0.0.1", 0)) as found:
                self._ports[name] = found.getsockname()[1]
            door = socket.create_server(("127.0.0.1", 0))
            self._doors[door] = name
            self._selector.register(door, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="proxies")
        self._thread.start()

    def close(self) -> None:
        """End every connection."""
        self._ending = True
        self._wake.send(b"x")
        self._thread.join()
        for one in (*self._pipes, *self._doors, self._wake, self._woken):
            one.close()
        self._selector.close()

    def command(self, name: str) -> list[str]:  # noqa: ARG002 - nothing is needed
        return []

    def settings(self, name: str) -> list[str]:
        [door] = [door for door, behind in self._doors.items() if behind == name]
        announced = f"announce_addresses=/ip4/127.0.0.1/tcp/{door.getsockname()[1]}"
        return ["--listen", f"/ip4/127.0.0.1/tcp/{self._ports[name]}", "--set", announced]

    def started(self, name: str, pid: int) -> None:
        """Connections that come from this process are that daemon's."""
        with self._lock:
            self._pids[pid] = name

    def cut(self, one: str, other: str) -> None:
        with self._lock:
            self._cut.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        with self._lock:
            self._cut.discard(frozenset((one, other)))
        self._wake.send(b"x")

    def _run(self) -> None:
        while not self._ending:
            for key, events in self._selector.select():
                found = key.fileobj
                if not isinstance(found, socket.socket):
                    continue
                if found is self._woken:
                    found.recv(4_096)
                    for pipe in list(self._pipes.values()):
                        self._listen(pipe)
                elif found in self._doors:
                    self._accept(found)
                else:
                    self._carry(found, events)

    def _accept(self, door: socket.socket) -> None:
        near, (_, port) = door.accept()
        name = self._doors[door]
        pair = frozenset((name, self._who(port) or name))
        try:
            far = socket.create_connection(("127.0.0.1", self._ports[name]), timeout=CONNECTING_S)
        except OSError:
            near.close()
            return
        for source, target in ((near, far), (far, near)):
            source.setblocking(False)
            self._pipes[source] = _Pipe(source, target, pair)
            self._selector.register(source, selectors.EVENT_READ)

    def _who(self, port: int) -> str | None:
        with self._lock:
            pids = dict(self._pids)
        for pid, name in pids.items():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if port in (getattr(one.laddr, "port", None) for one in psutil.Process(pid).net_connections("tcp")):
                    return name
        return None

    def _carry(self, found: socket.socket, events: int) -> None:
        pipe = self._pipes.get(found)
        if pipe is None:
            return
        try:
            if events & selectors.EVENT_READ and not pipe.data:
                pipe.data = found.recv(PIECE_BYTES)
                if not pipe.data:
                    self._drop(pipe)
                    return
            back = self._pipes[pipe.target]
            for one in (pipe, back):
                with self._lock:
                    lost = one.pair in self._cut
                if one.data and not lost:
                    with suppress(BlockingIOError):
                        one.data = one.data[one.target.send(one.data) :]
                self._listen(one)
        except OSError:
            self._drop(pipe)

    def _listen(self, pipe: _Pipe) -> None:
        """To what this pipe can use: more to read, or room to write."""
        back = self._pipes[pipe.target]
        for one, other in ((pipe, back), (back, pipe)):
            with self._lock:
                lost = one.pair in self._cut
            wanted = (0 if one.data else selectors.EVENT_READ) | (selectors.EVENT_WRITE if other.data and not lost else 0)
            if not wanted:
                with suppress(KeyError):
                    self._selector.unregister(one.source)
            elif one.source in self._selector.get_map():
                self._selector.modify(one.source, wanted)
            else:
                self._selector.register(one.source, wanted)

    def _drop(self, pipe: _Pipe) -> None:
        for one in (pipe.source, pipe.target):
            with suppress(KeyError):
                self._selector.unregister(one)
            self._pipes.pop(one, None)
            one.close()


@contextmanager
def links(*names: str, force_proxies: bool = False) -> Iterator[Namespaces | Proxies]:
    """Namespaces if this machine lets us make them, else proxies."""
    made: Namespaces | Proxies
    try:
        made = Proxies(names) if force_proxies or os.geteuid() else Namespaces(names)
    except (OSError, FileNotFoundError):
        made = Proxies(names)
    try:
        yield made
    finally:
        made.close()
