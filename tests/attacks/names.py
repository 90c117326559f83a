"""What mallory calls things: each would do something if it reached a terminal, a shell, git or a markup language as it is."""

from __future__ import annotations

from typing import Final

NASTY: Final = (
    "\x1b]0;owned\x07",  # sets the terminal's title
    "\x1b[2J\x1b[H\x1b[31mroot# ",  # clears it
    "\x9b31m",  # the same in eight bits
    "\x1bP+q544e\x1b\\",  # asks it to type its answer
    "a\r\nfree: src/a.py",  # a line of its own
    "a\u2028b\u2029c\x0b\x0c\x85d",  # lines for others
    "\u202egnp.exe\u202c",  # reads the other way round
    "\u2066x\u2069\u200f\u061c",  # so does this
    "a\u200b\u2060\ufeffb",  # not to be seen
    "[bold red]alarm[/bold red] [link=https://example.invalid]here[/link] [@click=quit]x[/]",  # rich's markup
    ":warning: :smiley:",  # and its emoji
    "-rf",
    "--all",
    "--upload-pack=touch owned",
    "-c core.sshCommand=touch\x20owned",
    ":(exclude)*",
    ":!src",
    ":/",
    "../../../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "$(touch owned)",
    "`touch owned`",
    "'; touch owned; '",
    "a\\' ; touch owned #",
    "HEAD@{u}..main",
    "refs/heads/../../config",
    ".git/hooks/pre-commit",
    "\udcff".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "e\u0301" * 200,
    "x" * 4_000,
    "𝕏\U0001f600\U000e0041",
)


def is_plain(text: str) -> bool:
    """Nothing in it but what is seen, in the order in which it stands; lines are ended by who prints."""
    return all(line.isprintable() for line in text.split("\n"))
