"""Clients that follow the shared document: each gets what has changed since its last answer, and waits if nothing has.

What a client has is a place in this daemon's life, `<incarnation>.<version of the document>`: a place of an earlier life, or one
that is longer ago than the document remembers, is answered with everything.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sudocode_coordination.api.requests import DocumentChanges, DocumentEntry, FollowDocument
from sudocode_coordination.core.facts import ROOTS, Respond, Root
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.sync import Sync
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import PeerId

MAX_WAITING: Final = 64
"""Requests that wait for a change: a few programs of one clone."""
MAX_WHOLE_BYTES: Final = 32 << 20
"""Of all entries as JSON: half of what a client takes in one answer. Thousands of peers have less."""


class Following:
    """See the module."""

    def __init__(self, sync: Sync) -> None:
        self._sync = sync
        self._document = sync.document
        self._waiting: dict[Ticket, FollowDocument] = {}

    def asked(self, ticket: Ticket, request: FollowDocument) -> bool:
        """Whether it can be answered now; else it waits until it is `due`.

        Raises:
            CoordinationError: too many wait.
        """
        if request.since != self._here():
            return True
        if len(self._waiting) >= MAX_WAITING:
            raise CoordinationError(f"{MAX_WAITING} requests wait for a change of the document", hint="end one of those programs")
        self._waiting[ticket] = request
        return False

    def due(self) -> list[Respond]:
        """At the end of a step, so that what changed together is told together: all who wait are answered if anything did."""
        here = self._here()
        due = [(ticket, request) for ticket, request in self._waiting.items() if request.since != here]
        for ticket, _ in due:
            del self._waiting[ticket]
        return [Respond(client=t.client, request_id=t.request_id, request=request) for t, request in due]

    def gone(self, client: int, request_id: int | None = None) -> None:
        """A client has gone, or (with `request_id`) takes that request back."""
        self._waiting = {
            t: request for t, request in self._waiting.items() if t.client != client or request_id not in (None, t.request_id)
        }

    def answer(self, since: str) -> DocumentChanges:
        """What leads from there to here.

        Raises:
            CoordinationError: everything is wanted, and it is too much.
        """
        life, _, version = since.partition(".")
        names = None
        if life == str(self._sync.incarnation) and version.isdigit() and len(version) <= 16:
            names = self._document.changed_since(int(version))
        if names is not None:
            entries = tuple(self._entry(*name) for name in names)
            return DocumentChanges(at=self._here(), whole=False, entries=entries)
        everything = tuple(
            DocumentEntry(root=root, owner=owner, key=key, value=value)
            for root in ROOTS
            for owner, key, value in self._document.entries(root)
        )
        if sum(len(msgspec.json.encode(entry)) for entry in everything) > MAX_WHOLE_BYTES:
            hint = "ask for its parts: coord leases, coord work show"
            raise CoordinationError(f"the shared document has more than {MAX_WHOLE_BYTES >> 20} MB", hint=hint)
        return DocumentChanges(at=self._here(), whole=True, entries=everything)

    def _entry(self, root: Root, owner: PeerId, key: str) -> DocumentEntry:
        return DocumentEntry(root=root, owner=owner, key=key, value=self._document.get(root, owner, key))

    def _here(self) -> str:
        return f"{self._sync.incarnation}.{self._document.version}"
