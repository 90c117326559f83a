"""The checker finds what must not be, in histories made by hand, and nothing in those that are right."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from tests.e2e.checker import LATE_MS, TOLD_MS, Call, Commit, Entry, Fault, History, Told, check, clash

from sudocode_coordination.model import Resource

A: Final = Resource("file", "src/a.py")
B: Final = Resource("file", "src/b.py")
APART: Final = frozenset({frozenset({"ada", "bob"})})


def acquired(at: int, daemon: str = "ada", claim: str = "", **more: Any) -> Told:
    values: dict[str, Any] = {"kind": "lease-acquired", "resources": (A,), "remaining_ms": 1_000, "agent": daemon}
    return Told(**{**values, "at": at, "daemon": daemon, "claim": claim or f"{daemon}.1", **more})


def then(told: Told, at: int, kind: str, **more: Any) -> Told:
    return msgspec.structs.replace(told, at=at, kind=kind, **more)


def call(begun: int, answered: int | None, kind: str = "acquire", **more: Any) -> Call:
    values: dict[str, Any] = {"daemon": "ada", "agent": "ada", "resources": (A,), "granted": True}
    return Call(**{**values, "kind": kind, "begun": begun, "answered": answered, **more})


def strict(begun: int, answered: int, claim: str, token: int | None, kind: str = "acquire", agent: str = "ada") -> Call:
    return call(begun, answered, kind, claims=(claim,), token=token, strict=True, agent=agent)


def commit(revision: int, **entries: int) -> Commit:
    """Each of them has a resource of its own."""
    made = {claim: Entry(agent=claim, resources=(Resource("file", claim),), token=token) for claim, token in entries.items()}
    return Commit(revision=revision, entries=made)


def rules(*told: Told, ended: int = 5_000, **more: Any) -> list[str]:
    return [violation.rule for violation in check(History(told=told, ended=ended, **more)).violations]


def held(at: int, daemon: str, until: int, **more: Any) -> tuple[Told, Told]:
    first = acquired(at, daemon, **more)
    return first, then(first, until, "lease-released")


# --- right -------------------------------------------------------------------------------------------------------------------


def test_one_after_the_other_in_the_same_millisecond() -> None:
    assert rules(*held(0, "ada", 500), *held(500, "bob", 700)) == []


def test_renewals_extend() -> None:
    ada = acquired(0)
    renewed = then(ada, 900, "lease-renewed")
    assert rules(ada, renewed, then(ada, 1_800, "lease-released"), *held(1_800, "bob", 2_000)) == []


def test_shared_ones_stand_beside_each_other_and_one_agent_beside_itself() -> None:
    assert rules(*held(0, "ada", 500, mode="shared"), *held(100, "bob", 700, mode="shared")) == []
    assert rules(*held(0, "ada", 500), *held(100, "ada", 700, claim="ada.2")) == []


def test_others_resources_are_others() -> None:
    assert rules(*held(0, "ada", 500), *held(100, "bob", 700, resources=(B,))) == []


def test_a_span_ends_with_its_time_though_the_daemon_slept_and_said_it_late() -> None:
    ada = acquired(0)
    stop = Fault(what="stop", begun=100, until=4_000, apart=APART)
    assert rules(ada, then(ada, 3_900, "lease-expired"), *held(1_000, "bob", 4_000, remaining_ms=3_000), faults=(stop,)) == []


def test_a_killed_daemon_holds_nothing() -> None:
    kill = Fault(what="kill", begun=300, until=2_000, apart=APART, died="ada")
    history = History(told=(acquired(0), *held(400, "bob", 700)), faults=(kill,), ended=5_000)
    verdict = check(history)
    assert verdict.violations == ()
    assert [(span.agent, span.begin, span.end, span.by) for span in verdict.spans] == [
        ("ada", 0, 300, "died"),
        ("bob", 400, 700, "released"),
    ]


def test_provisional_ones_may_overlap_while_their_daemons_are_apart() -> None:
    cut = Fault(what="cut", begun=0, until=2_000, apart=APART)
    ada = acquired(100, grade="provisional", remaining_ms=9_000)
    bob = acquired(200, "bob", grade="provisional", remaining_ms=9_000)
    told = (ada, bob, then(bob, 2_100, "lease-lost"), then(ada, 3_000, "lease-released"))
    assert rules(*told, faults=(cut,)) == []
    assert check(History(told=told, faults=(cut,), ended=5_000)).overlaps == 1


def test_the_claim_that_replaces_another_ends_it() -> None:
    first = acquired(0)
    assert rules(first, acquired(100, claim="ada.2", remaining_ms=500), then(first, 400, "lease-released", claim="ada.2")) == []


def test_strict_operations_in_the_order_of_the_chain() -> None:
    chain = (commit(1, x=1), commit(2, x=1, y=2), commit(3, y=2), commit(4, y=2, z=4))
    calls = (
        strict(0, 10, "x", 1),
        strict(11, 20, "y", 2, agent="bob"),
        strict(21, 30, "x", None, "release"),
        strict(5, 40, "z", 4, agent="cyd"),
    )
    told = tuple(
        acquired(at, claim=claim, grade="strict", resources=(Resource("file", claim),))
        for at, claim in ((9, "x"), (19, "y"), (39, "z"))
    )
    assert rules(*told, chain=chain, calls=calls, ended=100) == []


# --- planted -----------------------------------------------------------------------------------------------------------------


def test_two_quorum_leases_at_once() -> None:
    assert rules(*held(0, "ada", 500), *held(499, "bob", 700)) == ["exclusion"]


def test_no_cut_excuses_two_quorum_leases() -> None:
    cut = Fault(what="cut", begun=0, until=2_000, apart=APART)
    assert rules(*held(0, "ada", 500), *held(300, "bob", 700), faults=(cut,)) == ["exclusion"]


def test_two_agents_of_one_daemon() -> None:
    assert rules(*held(0, "ada", 500, agent="one"), *held(300, "ada", 700, claim="ada.2", agent="two")) == ["exclusion"]


def test_a_shared_and_an_exclusive_one() -> None:
    assert rules(*held(0, "ada", 500, mode="shared"), *held(300, "bob", 700)) == ["exclusion"]


def test_a_folder_and_what_lies_in_it() -> None:
    assert rules(*held(0, "ada", 500, resources=(Resource("file", "src/"),)), *held(300, "bob", 700)) == ["exclusion"]


def test_a_quorum_lease_that_was_granted_when_the_time_of_another_was_not_over() -> None:
    """The other daemon sleeps; by its own clock it holds until 1,000."""
    ada = acquired(0)
    stop = Fault(what="stop", begun=100, until=4_000, apart=APART)
    told = (ada, then(ada, 3_900, "lease-expired"), *held(990, "bob", 1_500))
    assert rules(*told, faults=(stop,)) == ["exclusion"]


def test_two_strict_ones_at_once() -> None:
    assert rules(*held(0, "ada", 500, grade="strict"), *held(300, "bob", 700, grade="strict")) == ["exclusion"]


def test_a_provisional_overlap_of_daemons_that_heard_each_other() -> None:
    assert rules(*held(0, "ada", 500), *held(300, "bob", 700, grade="provisional")) == ["apart"]
    others = Fault(what="cut", begun=0, until=2_000, apart=frozenset({frozenset({"ada", "cyd"})}))
    assert rules(*held(0, "ada", 500), *held(300, "bob", 700, grade="provisional"), faults=(others,)) == ["apart"]
    before = Fault(what="cut", begun=0, until=299, apart=APART)
    assert rules(*held(0, "ada", 500), *held(300, "bob", 700, grade="provisional"), faults=(before,)) == ["apart"]


def test_an_overlap_that_outlives_the_meeting() -> None:
    cut = Fault(what="cut", begun=0, until=2_000, apart=APART)
    long = {"grade": "provisional", "remaining_ms": 60_000}
    end = 2_001 + TOLD_MS
    assert rules(*held(0, "ada", end, **long), *held(300, "bob", end, **long), faults=(cut,), ended=end) == ["kept"]


def test_a_loser_that_is_not_told() -> None:
    """Its time is over, its daemon lives, and it says nothing."""
    assert rules(acquired(0), ended=60_000) == ["untold"]
    stop = Fault(what="stop", begun=100, until=4_000, apart=APART)
    assert rules(acquired(0), faults=(stop,), ended=4_000 + LATE_MS) == []
    assert rules(acquired(0), faults=(stop,), ended=4_001 + LATE_MS) == ["untold"]


@pytest.mark.parametrize("kind", ["lease-renewed", "lease-acquired"])
def test_one_that_comes_back(kind: str) -> None:
    ada, released = held(0, "ada", 500)
    assert rules(ada, released, then(ada, 600, kind, remaining_ms=100), ended=1_000) == ["revived"]


def test_a_renewal_after_the_end() -> None:
    ada = acquired(0)
    assert rules(ada, then(ada, 1_100, "lease-renewed"), then(ada, 1_200, "lease-released")) == ["revived"]


def test_what_clients_are_told() -> None:
    told = held(100, "ada", 500)
    assert rules(*told, calls=(call(90, 110, claims=("ada.1",)),)) == []
    assert rules(*told, calls=(call(90, 110, claims=("ada.7",)),)) == ["unfounded"]
    assert rules(*told, calls=(call(80, 90, claims=("ada.1",)),)) == ["unfounded"]
    assert rules(*told, calls=(call(80, None),)) == ["unanswered"]
    assert rules(*told, calls=(call(80, None, error="no-daemon"),)) == []
    assert rules(*told, calls=(call(80, 90, granted=False),)) == ["nameless"]
    assert rules(*told, calls=(call(80, 90, granted=False, holders=("bob",)),)) == []
    assert rules(*told, calls=(call(400, 499, "look", claims=("ada.1",)),)) == []
    assert rules(*told, calls=(call(600, 700, "look", claims=("ada.1",)),)) == ["unfounded"]


def test_tokens_grow_with_every_grant() -> None:
    assert rules(chain=(commit(1, x=1), commit(2, x=1, y=1))) == ["token"]
    assert rules(chain=(commit(1, x=5), commit(2), commit(3, y=4))) == ["token"]
    assert rules(chain=(commit(1, x=1), commit(2, x=2))) == ["token"]


def test_a_token_that_is_not_the_one_in_the_table() -> None:
    told = acquired(9, claim="x", grade="strict")
    assert rules(told, chain=(commit(1, x=1),), calls=(strict(0, 10, "x", 2),), ended=100) == ["token"]


def test_a_chain_that_goes_back() -> None:
    assert rules(chain=(commit(2, x=2), commit(1, x=2))) == ["chain"]
    assert rules(chain=(commit(1, x=1), commit(2), commit(3, x=3))) == ["chain"]


def test_two_in_the_table_on_one_thing() -> None:
    x = Entry(agent="ada", resources=(A,), token=1)
    y = Entry(agent="bob", resources=(B, A), token=2)
    assert rules(chain=(Commit(revision=1, entries={"x": x}), Commit(revision=2, entries={"x": x, "y": y}))) == ["exclusion"]


def test_an_acknowledged_operation_that_is_not_in_the_chain() -> None:
    told = acquired(9, claim="x", grade="strict")
    assert rules(told, chain=(commit(1, y=1),), calls=(strict(0, 10, "x", 1),), ended=100) == ["lost"]
    assert rules(told, chain=(commit(1, x=1),), calls=(strict(20, 30, "x", None, "release"),), ended=100) == ["lost"]


def test_an_order_that_is_not_that_of_time() -> None:
    chain = (commit(1, x=1), commit(2, x=1, y=2))
    told = tuple(acquired(9, claim=claim, grade="strict", resources=(Resource("file", claim),)) for claim in "xy")
    calls = (strict(0, 10, "y", 2, agent="bob"), strict(11, 20, "x", 1))
    assert rules(*told, chain=chain, calls=calls, ended=100) == ["real-time"]
    together = (commit(1, x=1, y=2),)
    assert rules(*told, chain=together, calls=calls, ended=100) == ["real-time"], "nor within one commit"


def test_a_denial_for_the_sake_of_what_was_given_back() -> None:
    told = held(0, "bob", 100, grade="strict", token=1)
    denied: dict[str, Any] = {"granted": False, "strict": True, "holders": ("bob",), "reason": "held"}
    assert rules(*told, calls=(call(99, 200, **denied),)) == []
    assert rules(*told, calls=(call(150, 200, **denied),)) == ["stale"]
    again = call(180, 300, daemon="bob", agent="bob", strict=True, granted=False, reason="held")
    assert rules(*told, calls=(call(150, 200, **denied), again)) == [], "bob is about to get it"
    cut = Fault(what="cut", begun=0, until=2_000, apart=APART)
    assert rules(*told, calls=(call(150, 200, **denied),), faults=(cut,)) == [], "it can't know"


# --- names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("src/a.py", "src/a.py", True),
        ("src", "src/a.py", True),
        ("src/", "src", True),
        ("src/a", "src/a.py", False),
        ("src/a.py", "src/b.py", False),
    ],
)
def test_plain_names(one: str, other: str, expected: bool) -> None:
    for a, b in ((one, other), (other, one)):
        assert clash(Resource("file", a), Resource("file", b)) is expected
    assert not clash(Resource("file", one), Resource("issue", other))
