"""What the core remembers from one step to the next, so as not to work it out again, is what it would work out."""

from __future__ import annotations

import gc
from datetime import UTC, datetime

import pytest

from sudocode_coordination.model import earliest, iso_from_ms
from sudocode_coordination.sim.scenario import Run, run_at_once, run_seed
from sudocode_coordination.sim.world import SimNode


@pytest.mark.parametrize("seed", [3, 11])
def test_discovery_acts_when_it_says_and_strict_leases_at_rest_have_nothing_to_do(seed: int) -> None:
    run = Run(seed)
    looked = rested = 0

    def look(node: SimNode) -> None:
        nonlocal looked, rested
        core = node.node
        if core is None:
            return
        looked += 1
        discovery, strict, now = core.discovery, core.strict, node.now
        due = earliest(discovery._read_due(), discovery._publish_due(), discovery._offer_due())
        assert discovery.deadline() == due
        times = core._deadlines()
        core._times = None
        assert core._deadlines() == times
        if strict._is_at_rest(now.instant):
            rested += 1
            before = (strict.deadline(), dict(strict._own), strict.writer._reading, strict.writer.wants_read)
            assert strict._step(now) == []
            assert (strict.deadline(), strict._own, strict.writer._reading, strict.writer.wants_read) == before

    run.world.watchers.append(look)
    outcome = run.run()
    assert outcome == run_seed(seed), "to look changes nothing"
    assert looked > 100
    assert rested > looked // 4


def test_garbage_is_looked_for_again_after_a_history() -> None:
    assert gc.isenabled()
    assert run_at_once(5) == run_seed(5)
    assert gc.isenabled()


def test_the_earliest_of_some_times() -> None:
    assert earliest() is None
    assert earliest(None, None) is None
    assert earliest(None, 7, 0, None, 3) == 0


@pytest.mark.parametrize("wall_ms", [0, 1, 999, 1_000, -1, 1_700_000_000_007, 1_800_000_000_999, 253_402_300_799_999])
def test_a_time_of_day_is_written_to_the_millisecond(wall_ms: int) -> None:
    seconds, milliseconds = divmod(wall_ms, 1_000)
    moment = datetime.fromtimestamp(seconds, tz=UTC).replace(microsecond=milliseconds * 1_000)
    assert iso_from_ms(wall_ms) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
