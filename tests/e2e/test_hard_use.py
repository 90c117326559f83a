"""Clones as they are used and misused: values that are too much, folders that are copied, moved or removed."""

from __future__ import annotations

import json

from tests.e2e.clones import repository


def test_what_can_not_be_shared_is_refused_and_nothing_changes() -> None:
    with repository("ann") as (ann,):
        ann.start()
        ann.coord("work", "set", "--file", "a.py")
        ann.coord("issue", "update", "1", "--title", "before")
        deep = json.dumps(json.loads("[" * 40 + "]" * 40))
        for said in (
            ann.coord("work", "set", "--meta", f"deep={deep}", expect=2),
            ann.coord("issue", "update", "1", "--set", f"title={'x' * 90_000}", expect=2),
            ann.coord("spec", "update", "s.md", "--set", f"big={12**40}", expect=2),
        ):
            assert said.stdout == ""
            assert said.stderr.startswith("error: ")
        status = ann.json("status")
        assert status["problems"] == []
        assert [work["files"] for work in status["work"]] == [["a.py"]]
        [issue] = ann.json("issue", "show")["issues"]
        assert issue["fields"]["title"]["value"] == "before"
        ann.coord("issue", "update", "2", "--set", f"big={'x' * 90_000}", "--draft")
        ann.coord("draft", "publish", "--all", expect=2)
        assert [draft["target"] for draft in ann.json("draft", "list")["drafts"]] == ["2"]
