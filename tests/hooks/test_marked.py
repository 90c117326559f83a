"""Blocks of ours in texts of the user's."""

from __future__ import annotations

import pytest

from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks.marked import with_block, without_block


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\n\n", "a\n\n\nb", "ü"])
def test_a_block_of_ours_leaves_what_is_around_it(text: str) -> None:
    first = with_block(text, "<", "1\n", ">")
    assert with_block(first, "<", "1\n", ">") == first
    assert first.startswith(text)
    assert "1\n" not in with_block(first, "<", "2\n", ">")
    assert (without_block(first, "<", ">") or "").rstrip("\n") == text.rstrip("\n")
    assert (without_block(first + "more\n", "<", ">") or "").endswith("more\n")


def test_what_follows_a_lost_mark_is_not_touched() -> None:
    with pytest.raises(CoordinationError) as caught:
        without_block(with_block("a\n", "<", "1\n", ">").replace(">", ""), "<", ">")
    assert "by hand" in caught.value.hint
