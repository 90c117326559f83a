"""A block of ours between two marks, at the end of a text that is the user's.

Laws: putting it in twice is the same as once; taking it out leaves the text as it was, whatever the user wrote around it.
"""

from __future__ import annotations

from sudocode_coordination.errors import CoordinationError


def with_block(text: str | None, begin: str, block: str, end: str) -> str:
    """The text with the block in it, in place of one that is there. `block` ends with a line break.

    Raises:
        CoordinationError: the mark that ends the present one is gone.
    """
    before = without_block(text or "", begin, end) or ""
    gap = "" if not before or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"
    return f"{before}{gap}{begin}\n{block}{end}\n"


def without_block(text: str, begin: str, end: str) -> str | None:
    """The text without it; None: nothing is left.

    Raises:
        CoordinationError: the mark that ends it is gone, so that nobody knows what after it is the user's.
    """
    before, begun, rest = text.partition(begin + "\n")
    if not begun:
        return text or None
    _, ended, after = rest.partition(end)
    if not ended:
        raise CoordinationError(f"{end} is gone from it", hint=f"put it back, or take {begin} and what is ours out by hand")
    after = after.removeprefix("\n")
    return ((before.removesuffix("\n") if before.endswith("\n\n") and not after else before) + after) or None
