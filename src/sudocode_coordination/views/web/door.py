"""Who may ask the page's server for anything. Pure: it is told the time, and does no I/O.

    link (one-time code) --enter--> session = cookie + key      link used twice --> both uses are shut out

Laws: a request counts only if its Host is this server's (a name that was rebound to loopback is not), and its Origin, where it has
one, is the page's; what changes or tells anything needs a session. Browsers send the cookie of 127.0.0.1 to every port of it, so
that whoever listens on another port gets it: alone it opens nothing. The key is kept by the page for its own origin, port included.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SECRET_BYTES: Final = 32
"""Of codes, cookies and keys: 256 bits."""
OPENED_S: Final = 60.0
"""How long the link counts that a browser is started with: it stands on that process's command line, where others may read it."""
SHOWN_S: Final = 600.0
"""How long a link counts that a person was shown."""
MAX_LINKS: Final = 16
"""Links that are remembered, used ones too: each press of Enter makes one. The oldest goes."""
MAX_SESSIONS: Final = 16
"""Browsers at a time. The oldest is out then."""
MAX_COOKIE_CHARACTERS: Final = 8_192
"""Of a Cookie header: other servers on this host leave theirs as well."""
KEY_HEADER: Final = "x-coord-key"


@dataclass(frozen=True)
class Session:
    """What a browser got for its link. `number` names it inside the server."""

    number: int
    cookie: str = field(repr=False)
    key: str = field(repr=False)


@dataclass
class _Link:
    until: float
    session: int | None = None
    """Who has used it."""


class Door:
    """See the module.

    Args:
        port: that is listened on.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie_name = f"coord-{port}"
        """Cookies know no ports: two pages in one browser would overwrite each other's."""
        self._hosts = frozenset((f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"))
        self._links: dict[str, _Link] = {}
        self._sessions: dict[int, tuple[str, str]] = {}
        """Number -> digests of cookie and key."""
        self._last = 0

    # --- what can be seen without a session -------------------------------------------------------------------------------

    def refusal(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is not even looked at; None: it is. `headers` by lower-case names."""
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return "the Host is not this server's"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}":
            return "the Origin is not this page's"
        if method not in ("GET", "HEAD") and origin is None:
            return "a change needs the page's Origin"
        # Where a browser tells it, nothing but the page asks for data, and only a person comes from elsewhere.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site not in (None, "same-origin", "none") and mode != "navigate":
            return "another site has asked"
        return None

    # --- links and sessions -----------------------------------------------------------------------------------------------

    def new_link(self, now: float, lifetime_s: float) -> str:
        """A code for one browser, usable once."""
        code = secrets.token_urlsafe(SECRET_BYTES)
        self._links[_digest(code)] = _Link(now + lifetime_s)
        while len(self._links) > MAX_LINKS:
            del self._links[next(iter(self._links))]
        return code

    def enter(self, code: str, now: float) -> Session | None:
        """A session for a code; None: it counts no more, or never did. One that is used twice was seen by somebody else: then who
        was first is shut out too, for it may be them."""
        link = self._links.get(_digest(code))
        if link is None:
            return None
        if link.session is not None:
            self._sessions.pop(link.session, None)
            return None
        if now >= link.until:
            return None
        self._last += 1
        link.session = self._last
        session = Session(self._last, secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES))
        self._sessions[session.number] = (_digest(session.cookie), _digest(session.key))
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def session_of(self, headers: Mapping[str, str]) -> int | None:
        """The number of the session that a request belongs to: its cookie and its key."""
        cookie, key = self._cookie(headers.get("cookie", "")), headers.get(KEY_HEADER, "")
        given = (_digest(cookie), _digest(key))
        for number, known in self._sessions.items():
            if secrets.compare_digest(known[0], given[0]) & secrets.compare_digest(known[1], given[1]):
                return number
        return None

    def is_open(self, session: int) -> bool:
        """Whether it has not been shut out meanwhile."""
        return session in self._sessions

    def leave(self, session: int) -> None:
        """The person has left; the session is over."""
        self._sessions.pop(session, None)

    def set_cookie(self, session: Session) -> str:
        """The value of the Set-Cookie header."""
        return f"{self.cookie_name}={session.cookie}; Path=/; HttpOnly; SameSite=Strict"

    def _cookie(self, header: str) -> str:
        if len(header) > MAX_COOKIE_CHARACTERS:
            return ""
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie_name:
                return value
        return ""


def _digest(secret: str) -> str:
    """What is kept of a secret: comparing digests tells nothing about it, not even by its time."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
