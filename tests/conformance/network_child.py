"""A network part in a process of its own, to be killed and frozen: prints its addresses, then echoes every frame.

`network_child.py NAME LISTEN PEER…`: identity by name, the only address to listen on, and who is admitted.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.core.io import FrameReceived, Input, Listening


async def main(name: str, listen: str, peers: tuple[str, ...]) -> None:
    def deliver(item: Input) -> None:
        match item:
            case Listening(addresses=addresses):
                sys.stdout.write(" ".join(addresses) + "\n")
                sys.stdout.flush()
            case FrameReceived(peer=peer, frame=frame):
                network.send(peer, frame)
            case _:
                pass

    network = Libp2pNetwork(Identity(name.encode().ljust(32, b".")), (listen,), deliver)
    network.admit(peers)
    scope = trio.CancelScope()

    async def run(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        await network.run(task_status=task_status)

    with scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            await trio.to_thread.run_sync(sys.stdin.read)
            scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], tuple(sys.argv[3:]))
