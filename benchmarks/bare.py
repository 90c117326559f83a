"""A libp2p host with nothing of ours, as a process: what the daemon is measured against.

python -m benchmarks.bare rest          listen and wait
python -m benchmarks.bare echo          the same, and send back what comes on a stream
python -m benchmarks.bare ping ADDRESS  one long-lived stream to such a host: round trips in ms, as JSON
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from benchmarks.harness import PAUSE_S

ECHO: Final = TProtocol("/benchmarks/echo/1.0.0")
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
FRAME: Final = b"x" * 300
"""About the size of a claim."""
WARM_UP: Final = 20
ROUND_TRIPS: Final = 200


async def _echo(stream: INetStream) -> None:
    while data := await stream.read(1 << 16):
        await stream.write(data)


async def _serve(*, echo: bool) -> None:
    host = new_host(muxer_preference="YAMUX", disable_identify_address_discovery=True)
    async with host.run([Multiaddr(LISTEN)]):
        if echo:
            host.set_stream_handler(ECHO, _echo)
        _say(str(host.get_addrs()[0]))
        await trio.sleep_forever()


async def _ping(address: str) -> None:
    host = new_host(muxer_preference="YAMUX", disable_identify_address_discovery=True)
    async with host.run([]):
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [ECHO])
        samples = []
        for number in range(WARM_UP + ROUND_TRIPS):
            began = time.perf_counter_ns()
            await stream.write(FRAME)
            missing = len(FRAME)
            while missing:
                missing -= len(await stream.read(missing))
            if number >= WARM_UP:
                samples.append((time.perf_counter_ns() - began) / 1e6)
            await trio.sleep(PAUSE_S)
        await stream.close()
        _say(json.dumps(samples))
        await host.close()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rest"]:
            trio.run(lambda: _serve(echo=False))
        case ["echo"]:
            trio.run(lambda: _serve(echo=True))
        case ["ping", address]:
            trio.run(_ping, address)
        case _:
            sys.exit(__doc__)
