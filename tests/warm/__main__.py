"""`python -m tests.warm ADDRESS`: a process that has imported what a daemon imports, and becomes one whenever it is asked to."""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from sudocode_coordination.daemon.__main__ import main

IMPORTED: Final = (
    "sudocode_coordination.adapters.disk",
    "sudocode_coordination.adapters.git",
    "sudocode_coordination.adapters.git_table",
    "sudocode_coordination.adapters.identity",
    "sudocode_coordination.adapters.lan",
    "sudocode_coordination.adapters.libp2p",
    "sudocode_coordination.adapters.neighbourhood",
    "sudocode_coordination.adapters.worktrees",
    "sudocode_coordination.core.node",
    "sudocode_coordination.daemon.body",
    "sudocode_coordination.daemon.lifecycle",
    "sudocode_coordination.daemon.rotation",
)
"""What `daemon/body.py` imports when it makes its parts."""
MAX_BODY_BYTES: Final = 1 << 20
"""An environment and a command line."""


def serve(address: str) -> None:
    """Fork a daemon for everyone who asks; ended by a signal. In the daemon it returns, with SystemExit."""
    for name in IMPORTED:
        importlib.import_module(name)
    # A thread would not be there in a fork, whatever it holds.
    threads = list(Path("/proc/self/task").iterdir()) if Path("/proc/self/task").is_dir() else []
    assert len(threads) <= 1, "an import has started a thread"
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            with connection:
                request, descriptors = _request(connection)
                pid = os.fork()
                if pid == 0:
                    break
                os.waitpid(pid, 0)  # it detaches at once
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.sendall(b"1")
    _become(request, descriptors)


def _request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
    size = int.from_bytes(header, "big")
    assert (len(header), len(descriptors)) == (4, 4), "no request"
    assert size <= MAX_BODY_BYTES
    body = b""
    while len(body) < size:
        part = connection.recv(size - len(body))
        assert part, "cut off"
        body += part
    return json.loads(body), list(descriptors)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """What `exec` would have done: descriptors, folder, environment, arguments."""
    report = request["report"]
    # Above all that is to be replaced, so that none is overwritten before it is moved.
    spare = [os.dup(descriptor) for descriptor in descriptors] if report in descriptors else descriptors
    for source, target in zip(spare, (0, 1, 2, report), strict=True):
        os.dup2(source, target)
    for descriptor in {*spare, *descriptors} - {0, 1, 2, report}:
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    pids = Path(os.environ["SUDOCODE_TEST_WARM_PIDS"])

    def tell() -> None:
        with pids.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")

    os.register_at_fork(after_in_child=tell)
    raise SystemExit(main(request["arguments"]))


if __name__ == "__main__":
    serve(sys.argv[1])
