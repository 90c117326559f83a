"""Names between agents and clones: folders and files, whose rule of case goes, how issues are written, and what is refused."""

from __future__ import annotations

import unicodedata

import pytest
from tests.core.lease_bench import Bench, file
from tests.core.node_bench import NodeBench

from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    CoreRequest,
    ListSpecs,
    ReleaseLease,
    RenewLease,
    SetWork,
    UpdateSpec,
)
from sudocode_coordination.core import claims as claims_module
from sudocode_coordination.core.claims import MAX_OWN_PATTERNS, MAX_OWNER_PATTERNS, Claims, Known
from sudocode_coordination.core.resources import MAX_PATTERNS
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource, ResourceType


def _denied(bench: Bench, name: str, path: str) -> list[str]:
    """By what; then nothing is left of the question."""
    answer = bench.answer(asked := bench.asks(name, path))
    bench.settles()
    if bench.granted(asked):
        assert bench.releases(name, path)
        bench.settles()
        return []
    answer = answer or bench.answer(asked)
    assert answer is not None
    return [holder.resource.path for holder in answer.holders]


def test_a_file_keeps_nobody_from_patterns_that_do_not_match_it() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "src/a.py")
    bench.settles()
    assert _denied(bench, "bob", "**/*.md") == []
    for path in ("**/*.py", "src/**", "src/a.py", "src/", "src", "src/a.py/x", "src/a.py/*"):
        assert _denied(bench, "bob", path) == ["src/a.py"], path
    bench.asks("alice", "docs/")
    bench.settles()
    assert _denied(bench, "bob", "**/*.md") == ["docs/"]


# --- case -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "asker", "folds"),
    [("mac", "mac2", True), ("mac", "linux", True), ("linux", "mac", True), ("linux", "linux2", False)],
)
def test_case_does_not_count_if_it_does_not_for_one_of_the_two(holder: str, asker: str, folds: bool) -> None:
    bench = Bench("mac", "mac2", "linux", "linux2", folding=("mac", "mac2"))
    bench.asks(holder, "Src/README", "lib/*.Py")
    bench.settles()
    assert _denied(bench, asker, "src/readme") == (["Src/README"] if folds else [])
    assert _denied(bench, asker, "Lib/a.PY") == (["lib/*.Py"] if folds else [])
    assert _denied(bench, asker, "Src/README") == ["Src/README"]
    conflicts = bench.of(asker).conflicts("anybody", (file("SRC/"),), bench.instant)
    assert [c.resource.path for c in conflicts] == (["Src/README"] if "mac" in asker or "mac" in holder else [])


def test_who_waits_for_a_name_in_another_case_is_woken() -> None:
    bench = Bench("mac", "linux", folding=("mac",))
    bench.asks("mac", "README")
    bench.settles()
    waiting = bench.asks("linux", "readme", wait_ms=0)
    bench.settles()
    assert bench.answer(waiting) is None
    bench.releases("mac", "README")
    bench.settles()
    assert bench.granted(waiting)


def test_own_names_go_by_the_rule_of_the_clone() -> None:
    bench = Bench("mac", "linux", folding=("mac",))
    for name in ("mac", "linux"):
        bench.asks(name, f"{name}/SRC/")
        bench.settles()
        again = bench.asks(name, f"{name}/src/a.py")
        bench.settles()
        assert bench.granted(again)
        assert len(bench[name].held()) == (1 if name == "mac" else 2), "it has it already"
        renewed, out = bench.of(name).renew(f"agent-of-{name}", (file(f"{name}/src/A.py"),), None, bench.now)
        bench.does(name, out)
        assert [lease.resources[0].path for lease in renewed] == (["mac/SRC/"] if name == "mac" else [])
        assert len(bench.releases(name, f"{name}/Src")) == (1 if name == "mac" else 0)


def test_the_rule_travels_with_the_claim_in_messages_and_in_the_document() -> None:
    bench = Bench("mac", "linux", folding=("mac",))
    bench.asks("mac", "A", ttl_ms=60_000)
    bench.settles()
    (entry,) = bench["mac"].document.values()
    assert isinstance(entry, dict)
    assert entry["fold"] is True
    assert [known.body.fold for known in bench.of("linux").claims.all()] == [True]
    bench.asks("linux", "B")
    bench.settles()
    (entry,) = bench["linux"].document.values()
    assert isinstance(entry, dict)
    assert "fold" not in entry, "as it was before there was such a rule"


def test_work_on_the_same_file_in_another_case() -> None:
    for ignore_case in (True, False):
        bench = NodeBench(ignore_case=ignore_case)
        bench.asks(SetWork(files=("SRC/a.py",), agent="one"))
        result = bench.asks(CheckConflicts(resources=(Resource("file", "src/A.py"),), agent="two"))
        assert [c.resource.path for c in result.conflicts] == (["SRC/a.py"] if ignore_case else [])


# --- issues, components, specs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "held", "asked", "same"),
    [
        ("issue", "#42", "42", True),
        ("issue", "42", " #42 ", True),
        ("issue", "#42", "#43", False),
        ("issue", "#42", "#042", False),
        ("issue", "PROJ-7", "proj-7", True),
        ("issue", "i-u\u0308", "I-\u00dc", True),
        ("issue", "stra\u00dfe", "STRASSE", True),
        ("issue", "a/b", "a", False),
        ("issue", "a*", "ab", False),
        ("component", "UI", "ui", True),
        ("component", "42", "#42", False),
        ("component", "auth", "auth/login", False),
        ("spec", "specs/auth", "specs/auth/login.md", True),
        ("spec", "specs/*.md", "specs/a.md", True),
        ("spec", "specs/A.md", "specs/a.md", False),
    ],
)
def test_what_is_one_issue_component_or_spec(kind: ResourceType, held: str, asked: str, same: bool) -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(Resource(kind, held),), agent="holder"))
    check = CheckConflicts(resources=(Resource(kind, asked),), agent="other")
    assert [c.agent_id for c in bench.asks(check).conflicts] == (["holder"] if same else [])
    others: list[ResourceType] = ["issue", "component", "spec", "file"]
    for other in others:
        if other != kind:
            assert not bench.asks(CheckConflicts(resources=(Resource(other, held),))).conflicts, "types are name spaces"
    released = bench.asks(ReleaseLease(resources=(Resource(kind, asked),), agent="holder")).released
    assert len(released) == (same and kind != "spec")


def test_a_spec_is_one_whether_its_name_has_a_slash_at_its_end_or_not() -> None:
    bench = NodeBench()
    bench.asks(UpdateSpec(spec_path="specs/x/", fields={"status": "draft"}))
    for path in ("specs/x", "./specs//x/"):
        (found,) = bench.asks(ListSpecs(spec_path=path))
        assert found.spec_path == "specs/x"


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "spec"])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("C:\\x", "is absolute"),
        ("..", "leaves the repository"),
        ("src/../../x", "leaves the repository"),
        ("src/*/../..", "leaves the repository"),
        ("a\0b", "control characters"),
        (":(icase)x", "magic"),
    ],
)
def test_over_the_socket_a_name_of_nothing_in_the_repository_is_a_clear_error(kind: ResourceType, path: str, why: str) -> None:
    bench = NodeBench()
    resources = (Resource("issue", "#1"), Resource(kind, path))
    requests: list[CoreRequest] = [
        AcquireLease(resources=resources),
        CheckConflicts(resources=resources),
        RenewLease(resources=resources),
        ReleaseLease(resources=resources),
    ]
    requests.append(SetWork(files=(path,)) if kind == "file" else SetWork(specs=(path,)))
    for request in requests:
        with pytest.raises(ResourceError, match=why) as refused:
            bench.asks(request)
        assert refused.value.hint
        assert kind in refused.value.message


@pytest.mark.parametrize("path", ["", "\t", "a\nb"])
@pytest.mark.parametrize("kind", ["issue", "component"])
def test_so_are_ids_that_say_nothing(kind: ResourceType, path: str) -> None:
    with pytest.raises(ResourceError) as refused:
        NodeBench().asks(AcquireLease(resources=(Resource(kind, path),)))
    assert refused.value.hint


def test_names_are_compared_in_one_unicode_form_and_shown_in_it() -> None:
    bench = NodeBench()
    lease = bench.asks(AcquireLease(resources=(Resource("file", "u\u0308/"),), agent="holder")).lease
    assert lease.resources == (Resource("file", unicodedata.normalize("NFC", "u\u0308/")),)
    assert bench.asks(CheckConflicts(resources=(Resource("file", "\u00fc/x"),))).conflicts


# --- patterns of one owner --------------------------------------------------------------------------------------------------


def test_a_peer_with_too_many_patterns_is_not_followed_and_gets_no_voice_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PATTERNS < MAX_OWN_PATTERNS < MAX_OWNER_PATTERNS
    monkeypatch.setattr(claims_module, "MAX_OWNER_PATTERNS", 4)
    known = Claims("me")
    patterns = [
        Known(ClaimBody(f"mallory.1.{n}", "m", (file(f"**/*{n}"),), "exclusive", 0, 1, 1_000), "direct", 9, "") for n in range(7)
    ]
    monkeypatch.setattr(Claims.room_for_patterns, "__defaults__", (4,))
    assert [known.add(claim) for claim in patterns] == [True] * 4 + [False] * 3
    plain = Known(ClaimBody("mallory.1.90", "m", (file("plain"),), "exclusive", 0, 1, 1_000), "direct", 9, "")
    assert known.add(plain), "names cost nothing"
    other = Known(ClaimBody("bob.1.1", "m", (file("*"),), "exclusive", 0, 1, 1_000), "direct", 9, "")
    assert known.add(other), "of one owner alone"
    known.forget("mallory.1.0")
    assert known.add(patterns[4])
    assert not known.add(patterns[5])


def test_an_agent_that_wants_too_many_patterns_is_told_so() -> None:
    bench = Bench("alice", "bob")
    for n in range(MAX_OWN_PATTERNS // MAX_PATTERNS):
        assert bench.answer(bench.asks("alice", *(f"{n}/{m}/*" for m in range(MAX_PATTERNS)))) is None
        bench.settles()
    with pytest.raises(ResourceError, match="hold 256 patterns") as refused:
        bench.asks("alice", "more/*")
    assert refused.value.hint
    assert bench.granted(bench.asks("alice", "0/0/*")), "what it has, it has"
    more = bench.asks("alice", "plain/")
    bench.settles()
    assert bench.granted(more)
    bench.releases("alice", "7/1/*")
    bench.settles()
    more = bench.asks("alice", "more/*")
    bench.settles()
    assert bench.granted(more)
