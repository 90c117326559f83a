"""The lines above and below the lists: what is watched, the names of the lists, that the daemon is gone, the keys."""

from __future__ import annotations

from textual.content import Content

from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.model import Now
from sudocode_coordination.views.lines import fitted
from sudocode_coordination.views.rows import TABS
from sudocode_coordination.views.state import Filter, Picture


def head(picture: Picture, folder: str, width: int) -> Content:
    """Which clone, who acts, and whether it is live, in words."""
    link = {"live": "live", "connecting": "connecting", "gone": "NO DAEMON"}[picture.link.state]
    left = f"coord watch  {clean(folder, 40)}  as {clean(picture.agent, 40) or '-'}"
    return Content.assemble(
        (fitted(left, max(0, width - len(link) - 2)), "bold"), "  ", (link, "bold" if link == "live" else "bold reverse")
    )


def tab_line(picture: Picture, current: str, width: int, now: Now) -> Content:
    """The names of the lists with how much is in each, as it fits: the chosen one in brackets."""
    counts = {
        "leases": len(picture.held),
        "work": len(picture.work),
        "agents": len(picture.agents),
        "queue": len(picture.queue),
        "conflicts": len(picture.clashes(now.instant)),
        "messages": picture.unread(now.instant),
        "events": len(picture.happened),
    }
    for titles, with_events, gap in (("title", True, 2), ("title", True, 1), ("title", False, 1), ("short", False, 1)):
        parts: list[tuple[str, str]] = []
        for number, tab in enumerate(TABS, 1):
            title = tab.short if titles == "short" and tab.name != current else tab.title
            count = f" {counts[tab.name]}" if with_events or tab.name != "events" else ""
            text = f"{number} {title}{count}"
            parts.append((f"[{text}]", "bold reverse") if tab.name == current else (text, "bold" if counts[tab.name] else "dim"))
        if sum(len(text) for text, _ in parts) + gap * (len(parts) - 1) <= width:
            break
    pieces: list[str | tuple[str, str]] = []
    for part in parts:
        pieces += [part, " " * gap]
    return Content.assemble(*pieces[:-1])


def gone(picture: Picture, now: Now) -> str:
    """That the daemon is gone, for how long, and what to do; empty: it is not."""
    link = picture.link
    if link.state != "gone":
        return ""
    before = "; what is shown is of before" if picture.status is not None else ""
    hint = f" {clean(link.hint)}." if link.hint else ""
    since = shown_duration(now.instant - link.since.instant)
    return f"! {clean(link.reason)} ({since} ago{before}).{hint} It is looked for every second."


def below(picture: Picture, chosen: Filter, shown: int, width: int) -> Content:
    """What the filter leaves, or what wants attention."""
    if chosen:
        return Content(fitted(f"filter: {clean(chosen.text)}  ({shown} shown; Esc: all)", width))
    problems = picture.status.problems if picture.status is not None else ()
    return Content(fitted(f"! {clean(problems[-1])} (see coord doctor)" if problems else "", width))


def keys(tab: str, width: int) -> Content:
    """What can be pressed here."""
    text = "Enter inspect  / filter  r release  a ask  m message  ? help  q quit"
    if tab == "messages":
        text = "Enter read it  / filter  m answer  x mark as read  M to all  ? help  q quit"
    return Content.styled(fitted(text, width), "dim")
