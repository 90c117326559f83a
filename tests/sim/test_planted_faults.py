"""The simulator would notice: faults planted in the core are each found within a few seeds.

Patching is the point here: a checker that never saw a fault may be checking nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from sudocode_coordination.core import claims, holdings, leases, own_leases, sync
from sudocode_coordination.core.facts import Output, Say
from sudocode_coordination.core.io import DiskContents
from sudocode_coordination.core.wire import Ack
from sudocode_coordination.model import Now
from sudocode_coordination.sim.scenario import Run

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS = 40


def _quorum_of_whoever_answers(patch: pytest.MonkeyPatch) -> None:
    judged = holdings.standing

    def standing(*args: Any, **kwargs: Any) -> holdings.Standing:
        found = judged(*args, **kwargs)
        return "quorum" if found == "provisional" else found

    patch.setattr(own_leases, "standing", standing)


def _early_expiry_at_observers(patch: pytest.MonkeyPatch) -> None:
    for module in (claims, leases):
        patch.setattr(module, "stretch", lambda duration_ms: duration_ms // 4)


def _both_of_two_racers_give_way_to_nobody(patch: pytest.MonkeyPatch) -> None:
    judged = own_leases.OwnLeases._judge

    def judge(self: Any, mine: Any, claim: Any, granted: bool, grade: Any, now: Now) -> Any:
        return (True, []) if not mine.granted and not granted else judged(self, mine, claim, granted, grade, now)

    patch.setattr(own_leases.OwnLeases, "_judge", judge)


def _without_disclosures(output: Output) -> Output:
    if isinstance(output, Say) and isinstance(output.message, Ack):
        return Say(peer=output.peer, message=msgspec.structs.replace(output.message, disclosed=()))
    return output


def _nothing_is_disclosed(patch: pytest.MonkeyPatch) -> None:
    on_claim = leases.LeaseManager._on_claim

    def silent(self: Any, *args: Any) -> Any:
        return [_without_disclosures(output) for output in on_claim(self, *args)]

    patch.setattr(leases.LeaseManager, "_on_claim", silent)


def _a_restart_forgets_what_was_acknowledged(patch: pytest.MonkeyPatch) -> None:
    begun = leases.LeaseManager.started

    def started(self: Any, incarnation: int, contents: DiskContents, now: Now, *, newborn: bool = False) -> Any:
        kept = tuple(value for value in contents.values if value.space != "claims")
        del newborn
        return begun(self, incarnation, msgspec.structs.replace(contents, values=kept), now, newborn=True)

    patch.setattr(leases.LeaseManager, "started", started)


def _no_anti_entropy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sync.Sync, "_compare", lambda *_: [])


FOUND_BY: list[tuple[Plant, Iterable[int]]] = [
    (_quorum_of_whoever_answers, range(SEEDS)),
    (_early_expiry_at_observers, range(SEEDS)),
    (_both_of_two_racers_give_way_to_nobody, range(SEEDS)),
    (_nothing_is_disclosed, range(SEEDS)),
    (_no_anti_entropy, range(SEEDS)),
    # Rare: that peer must restart while its voice decides, and the two that ask must be apart.
    (_a_restart_forgets_what_was_acknowledged, (219, 183, 458)),
]


@pytest.mark.parametrize(("plant", "seeds"), FOUND_BY, ids=[plant.__name__.strip("_") for plant, _ in FOUND_BY])
def test_a_planted_fault_is_found(plant: Plant, seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    if not any(Run(seed).run().violation for seed in seeds):
        pytest.fail(f"no seed of {seeds} found it")
