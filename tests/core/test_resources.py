"""Names of resources: one normal form each, and an index that finds whoever shares one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import MAX_PATH_CHARACTERS, normalise, normalise_all
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource, ResourceType

types = st.sampled_from(("file", "issue", "spec", "component"))


@pytest.mark.parametrize(
    ("kind", "path", "normal"),
    [
        ("file", "src/a.py", "src/a.py"),
        ("file", "./src//./a.py", "src/a.py"),
        ("file", "src/", "src/"),
        ("file", "src//", "src/"),
        ("file", ".", "./"),
        ("file", "./", "./"),
        ("file", "a b/ü.txt", "a b/ü.txt"),
        ("file", "u\u0308.txt", "\u00fc.txt"),
        ("file", "..a/b", "..a/b"),
        ("file", "ab:c", "ab:c"),
        ("spec", "./specs/x.md", "specs/x.md"),
        ("issue", " ISSUE-1 ", "ISSUE-1"),
        ("issue", "a//b", "a//b"),
        ("component", "../core", "../core"),
    ],
)
def test_what_git_takes_for_the_same_has_one_name(kind: ResourceType, path: str, normal: str) -> None:
    assert normalise(Resource(kind, path)) == Resource(kind, normal)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("x" * (MAX_PATH_CHARACTERS + 1), "is longer than"),
        ("/etc/passwd", "is absolute"),
        ("\\\\server\\share", "is absolute"),
        ("C:/windows", "is absolute"),
        ("./C:/windows", "is absolute"),
        (".//\\\\server\\share", "is absolute"),
        ("../x", "leaves the repository"),
        ("a/../../x", "leaves the repository"),
        ("a/..", "leaves the repository"),
        ("a\nb", "control characters"),
        ("a\x00b", "control characters"),
        ("a\ud800b", "control characters"),
    ],
)
def test_what_names_nothing_in_the_repository_is_refused(path: str, why: str) -> None:
    with pytest.raises(ResourceError, match=why) as refused:
        normalise(Resource("file", path))
    assert refused.value.hint


@given(types, st.one_of(st.text(max_size=30), st.text("./\\:Ca*[", max_size=9)))
def test_a_normal_form_is_its_own_normal_form(kind: ResourceType, path: str) -> None:
    try:
        once = normalise(Resource(kind, path))
    except ResourceError:
        return
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once.path)


@given(st.lists(st.sampled_from(("a", "./a", "b", "a/", "a//")), min_size=1))
def test_each_is_named_once_and_in_order(paths: list[str]) -> None:
    found = normalise_all(Resource("file", path) for path in paths)
    assert list(found) == sorted(set(found))
    assert {resource.path for resource in found} == {path.removeprefix("./").replace("//", "/") for path in paths}


resources = st.builds(Resource, types, st.sampled_from("abc"))
sets = st.lists(resources, min_size=1, max_size=4, unique=True).map(tuple)


@given(st.dictionaries(st.sampled_from(("c1", "c2", "c3", "c4")), sets), sets, st.sets(st.sampled_from(("c1", "c2", "c3"))))
def test_a_claim_is_found_if_and_only_if_it_shares_a_resource(
    claims: dict[str, tuple[Resource, ...]], wanted: tuple[Resource, ...], removed: set[str]
) -> None:
    index = Overlap()
    for id_, names in claims.items():
        index.add(id_, names)
    for id_ in sorted(removed):
        index.remove(id_, claims.get(id_, wanted))
    found = list(index.of(wanted))
    assert len(found) == len(set(found))
    assert set(found) == {id_ for id_, names in claims.items() if id_ not in removed and set(names) & set(wanted)}


def test_types_are_name_spaces_of_their_own() -> None:
    index = Overlap()
    index.add("c", (Resource("file", "x"),))
    assert list(index.of([Resource("issue", "x"), Resource("spec", "x")])) == []
