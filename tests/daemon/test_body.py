"""What a daemon is put together from: the stand-in for a network that is not there yet."""

from __future__ import annotations

from tests.daemon.doubles import Log

from sudocode_coordination.daemon import body
from sudocode_coordination.daemon.body import LateNetwork


def test_admissions_and_dials_wait_for_the_network() -> None:
    late, real = LateNetwork(), Log()
    late.admit(("a",))
    late.admit(("a", "b"))
    late.dial("a", ("/1",))
    late.dial("b", ("/2",))
    late.dial("a", ("/3",))
    late.hang_up("b", "not any more")
    late.send("a", b"nobody is connected")
    late.gossip("t", b"nobody hears")
    late.arrived(real)
    assert real.calls == [("admit", ("a", "b")), ("dial", "a", ("/3",))]


def test_once_it_is_there_everything_goes_through() -> None:
    late, real = LateNetwork(), Log()
    late.arrived(real)
    late.admit(("a",))
    late.dial("a", ("/1",))
    late.send("a", b"f")
    late.gossip("t", b"g")
    late.hang_up("a", "why")
    expected = [("admit", ("a",)), ("dial", "a", ("/1",)), ("send", "a", b"f"), ("gossip", "t", b"g"), ("hang_up", "a", "why")]
    assert real.calls == expected


def test_dials_that_wait_are_limited() -> None:
    late, real = LateNetwork(), Log()
    for number in range(body.MAX_LATE_DIALS + 10):
        late.dial(f"p{number}", ())
    late.arrived(real)
    assert len(real.calls) == body.MAX_LATE_DIALS
