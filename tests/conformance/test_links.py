"""One link, on a clock that runs by hand: who is asked whether it lives, how often, and who is given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
import trio
import trio.testing

from sudocode_coordination.adapters.links import ANSWERS_PROBES, IDLE_PER_LINK_S, OPEN, PROBE, Hello, Link, LinkLimits

KEEPALIVE = b"\0\0\0\0"
ASK = PROBE.to_bytes(4, "big")
LIMITS = LinkLimits()


class OneEnd:
    """A stream of which the test is the other end."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.to_link, self._incoming = trio.open_memory_channel[bytes](100)

    async def read(self, n: int | None = None) -> bytes:
        del n
        return await self._incoming.receive()

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def close(self) -> None:
        self.to_link.close()

    async def reset(self) -> None:
        self.to_link.close()


class Scene:
    """A link that is ticked every second, as the network does it."""

    def __init__(self, *, features: int = ANSWERS_PROBES, links: int = 1) -> None:
        self.stream = OneEnd()
        self.frames: list[bytes] = []
        remote = Hello(OPEN, b"12345678", 1, features)
        self.link = Link(
            "peer", self.stream, address="", direction="in", remote=remote, on_frame=lambda _, frame: self.frames.append(frame),
            limits=LIMITS,
        )  # fmt: skip
        self.links = links
        self.ended = ""

    async def passes(self, seconds: int, *, says: Callable[[bytes], bytes] | None = None) -> None:
        """Time passes; `says`: what the other end answers to what it is sent."""
        for _ in range(seconds):
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            self.ended = self.ended or self.link.tick(trio.current_time(), 0.0, self.links) or ""
            before = len(self.stream.written)
            await trio.testing.wait_all_tasks_blocked()
            for sent in self.stream.written[before:]:
                if says is not None and (answer := says(sent)):
                    await self.hears(answer)

    async def hears(self, data: bytes) -> None:
        await self.stream.to_link.send(data)
        await trio.testing.wait_all_tasks_blocked()


def play(scene: Callable[[], Scene], story: Callable[[Scene], object]) -> None:
    async def main() -> None:
        played = scene()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played.link.run)
            await trio.testing.wait_all_tasks_blocked()
            told: object = story(played)
            assert hasattr(told, "__await__")
            await told
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def answering(sent: bytes) -> bytes:
    return KEEPALIVE if sent == ASK else b""


LONG_S: Final = 400
"""Some dozen questions where fifty links take turns."""


@pytest.mark.slow
def test_an_idle_link_is_asked_the_more_rarely_the_more_links_there_are() -> None:
    counts = {}
    for links in (1, 10, 50):

        async def story(scene: Scene) -> None:
            await scene.passes(LONG_S, says=answering)
            assert not scene.ended
            assert set(scene.stream.written) == {ASK}
            counts[scene.links] = len(scene.stream.written)

        play(lambda links=links: Scene(links=links), story)  # type: ignore[misc]
    assert counts.pop(1) > 0.3 * LONG_S
    for links, count in counts.items():
        assert 0.7 < count / (LONG_S / ((links - 1) * IDLE_PER_LINK_S)) <= 1.0


def test_a_peer_that_does_not_answer_what_was_sent_is_given_up_however_many_links_there_are() -> None:
    async def story(scene: Scene) -> None:
        await scene.passes(30, says=answering)
        assert scene.link.send_nowait(b"a claim")
        await scene.passes(3)
        assert scene.stream.written[-1] == ASK
        await scene.passes(3)
        assert not scene.ended
        await scene.passes(3)
        assert "silent" in scene.ended

    play(lambda: Scene(links=50), story)


def test_an_answer_of_any_kind_counts() -> None:
    async def story(scene: Scene) -> None:
        for _ in range(20):
            assert scene.link.send_nowait(b"a claim")
            await scene.passes(2)
            await scene.hears(b"\0\0\0\x02ok")
        await scene.passes(20)
        assert not scene.ended
        assert ASK not in scene.stream.written
        assert scene.frames == [b"ok"] * 20

    play(lambda: Scene(links=50), story)


def test_a_probe_is_answered_even_in_pieces_and_a_flood_of_them_once() -> None:
    async def story(scene: Scene) -> None:
        await scene.hears(ASK[:2])
        assert scene.stream.written == []
        await scene.hears(ASK[2:] + b"\0\0\0\x01x")
        assert scene.stream.written == [KEEPALIVE]
        await scene.hears(ASK * 1_000)
        assert scene.stream.written == [KEEPALIVE] * 2
        assert scene.frames == [b"x"]

    play(Scene, story)


def test_an_older_peer_gets_its_keepalives_and_is_never_asked() -> None:
    async def story(scene: Scene) -> None:
        for _ in range(50):
            await scene.passes(2)
            await scene.hears(KEEPALIVE)
        assert not scene.ended
        assert set(scene.stream.written) == {KEEPALIVE}
        assert len(scene.stream.written) >= 30
        await scene.passes(9)
        assert scene.ended

    play(lambda: Scene(features=0, links=50), story)
