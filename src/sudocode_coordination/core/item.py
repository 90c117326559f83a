"""What inputs and effects have in common."""

from __future__ import annotations

import msgspec


class Item(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of inputs and effects: encodable, so that the journal can keep them and the simulator replay them."""
