"""Text for terminals. Imports nothing: the fast path of `coord check` uses it.

Everything that came from a peer (ids, notes, statuses, paths, reasons) goes through `clean` before it is printed.
"""

MAX_SHOWN = 300
"""Characters of one foreign string that are shown: a peer may send 4,096, and nobody reads a screenful of note."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: object, limit: int = MAX_SHOWN) -> str:
    """The text on one line, without anything that could steer a terminal or turn the reading direction.

    Line breaks, tabs and exotic spaces become a space; control, escape, bidirectional, zero-width, surrogate and unassigned
    characters become U+FFFD; what is longer than `limit` ends in an ellipsis.
    """
    raw = str(text)
    shown = raw[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " if c.isspace() else _REPLACEMENT for c in shown)
    return shown if len(raw) <= limit else shown[: limit - 1] + "…"


def shown_duration(ms: float) -> str:
    """Milliseconds as people say them: `850ms`, `12s`, `4m05s`, `2h10m`, `3d4h`."""
    if ms < 0:
        return "0s"
    if ms < 1000:
        return f"{int(ms)}ms"
    seconds = int(ms) // 1000
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s" if seconds else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"


def resource_name(resource: object) -> str:
    """A resource as `[type, path]` (how it is encoded), or as the `Resource` itself, for people: files by path alone."""
    if isinstance(resource, (list, tuple)) and len(resource) == 2:
        kind, path = resource
    else:
        kind, path = getattr(resource, "type", "file"), getattr(resource, "path", resource)
    return clean(path) if kind == "file" else f"{clean(kind)}:{clean(path)}"


def json_text(document: object, *, pretty: bool) -> str:
    """The document as JSON, in ASCII: what a terminal could take for a command is escaped."""
    import json

    return json.dumps(document, indent=2) if pretty else json.dumps(document, separators=(",", ":"))
