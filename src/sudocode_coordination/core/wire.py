"""What peers say to each other on the sync stream and in gossip: MessagePack, bounded, versioned. `docs/protocol.md` describes it.

A frame is a batch of messages; the adapter carries frames as bytes and knows nothing of them. Unknown message types are
skipped and unknown fields ignored, so that an older peer can talk to a newer one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import AGENT_ID_PATTERN, Grade, LeaseMode, Resource

PROTOCOL_VERSION: Final = 1
MAX_FRAME_BYTES: Final = 1 << 20
"""Largest frame accepted. Yamux's window is 256 KB: the adapter writes larger ones in pieces."""
MAX_ENVELOPE_BYTES: Final = 64 << 10
"""Largest update in one envelope, so that a batch of them stays below a frame."""
MAX_MESSAGES: Final = 4_096
"""Messages in one frame: what a burst of leases in one tick needs, and few enough to bound a hostile frame's cost."""
MAX_RESOURCES: Final = 1_000
"""Resources in one claim."""
MAX_RENEWED: Final = 20_000
"""Claims refreshed in one message; a peer with more sends several."""
MAX_HOLD_MS: Final = 7 * 24 * 3_600_000
"""Longest time for which a claim may count without a refresh."""
MAX_LAMPORT: Final = (1 << 53) - 1
MAX_AGED: Final = 2_000_000
"""Levels of priority gained by waiting: as many as there are."""
MAX_STRICT_CLAIMS: Final = 2_000
"""Strict leases in one operation on the table; a peer with more sends several."""
MAX_IN_THE_WAY: Final = 20
"""Entries of the table that a refusal names: people read them."""
MAX_MEMBERS: Final = 4_096
"""Peers that one counts, as it tells them: all that the branch may list, and as many that have vanished from it."""
MAX_HEADS: Final = 10_000
"""Feeds a peer may tell of: two hundred peers, and long memory of those who left."""

Text = Annotated[str, Meta(max_length=4_096)]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Agent = Annotated[str, Meta(pattern="^" + AGENT_ID_PATTERN.pattern)]
"""Names of agents are shown, logged and typed: what no agent can be called is refused where it comes in."""
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")]
"""`\\Z`, as `$` would let a line break through."""
Time = Annotated[str, Meta(max_length=40)]
"""ISO 8601 UTC, for people."""
Natural = Annotated[int, Meta(ge=0, lt=1 << 53)]
Millis = Annotated[int, Meta(ge=0, le=MAX_HOLD_MS)]


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="t", omit_defaults=True):
    """Base of all messages."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """How far a feed is known: all of `epoch` up to and including sequence number `seq`; 0 is nothing yet, and 2^53 - 1 says
    that nothing more of this epoch is wanted: it was forgotten or refused."""

    owner: Id
    epoch: Natural
    seq: Natural


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """One signed step of a feed, stored and forwarded as it came.

    The first `parts` envelopes of an epoch (sequence numbers 1 to `parts`) are together its snapshot; until all of them
    are there, the epoch before stays in view.
    """

    owner: Id
    epoch: Natural
    seq: Annotated[int, Meta(ge=1, lt=1 << 53)]
    parts: Natural
    update: Annotated[bytes, Meta(max_length=MAX_ENVELOPE_BYTES)]
    signature: Annotated[bytes, Meta(max_length=64)]


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """First message on a sync stream, in both directions."""

    protocol: Natural = PROTOCOL_VERSION
    version: Text = ""
    incarnation: Natural
    heads: Annotated[tuple[Head, ...], Meta(max_length=MAX_HEADS)] = ()


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A peer that the sender counts, and for how long still if the branch does not show it again."""

    peer: Id
    left_ms: Millis
    established: bool = False
    """Its weight counts with the sender."""


class Members(Message, frozen=True, kw_only=True, tag="members"):
    """Whom the sender counts for majorities: told after its Hello, and again before it answers any claim once that has changed.
    Whoever relies on its answers has to count them too. `partial`: there are more."""

    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)] = ()
    partial: bool = False


class Heads(Message, frozen=True, kw_only=True, tag="heads"):
    """Anti-entropy: what the sender has. The receiver answers with what is missing there, and `Heads` if `reply` is set."""

    heads: Annotated[tuple[Head, ...], Meta(max_length=MAX_HEADS)] = ()
    reply: bool = False


class Envelopes(Message, frozen=True, kw_only=True, tag="env"):
    """Steps of feeds, in order per feed."""

    envelopes: Annotated[tuple[Envelope, ...], Meta(max_length=MAX_MESSAGES)] = ()


class Presence(Message, frozen=True, kw_only=True, tag="presence"):
    """A beat: the sender lives. Also sent as gossip, then signed as a whole (`Signed`)."""

    incarnation: Natural
    count: Natural
    ping: Natural = 0
    """The sender's monotonic milliseconds, given back in `pong` by the receiver: the round trip."""
    pong: Natural | None = None


class RecordOffer(Message, frozen=True, kw_only=True, tag="record"):
    """Signed peer records for whoever publishes for all; one JSON file's text each."""

    records: Annotated[tuple[Annotated[bytes, Meta(max_length=16_384)], ...], Meta(max_length=256)] = ()


Resources = Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=MAX_RESOURCES)]
Priority = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)]
TtlMs = Annotated[int, Meta(ge=1, le=MAX_HOLD_MS)]
Aged = Annotated[int, Meta(ge=0, le=MAX_AGED)]


class ClaimBody(msgspec.Struct, frozen=True, array_like=True):
    """What never changes of a claim. `lamport` orders claims of one priority: first come, first served."""

    id: Id
    agent: Agent
    resources: Resources
    mode: LeaseMode
    priority: Priority
    lamport: Natural
    ttl_ms: TtlMs
    note: Text = ""
    fold: bool = False
    """Its owner's clone ignores case (git's `core.ignorecase`). Two claims are compared without case if it is set in either."""
    aged: Aged = 0
    """Levels of priority that it has gained by waiting: they count for its place in the queue and against being taken over, never
    for taking over."""


class Disclosed(msgspec.Struct, frozen=True, array_like=True):
    """A live claim that the acknowledging peer knows of, with the time it still has there."""

    claim: ClaimBody
    granted: bool
    grade: Grade
    remaining_ms: Millis
    reachable: bool = False
    """Its owner is connected to the one who tells: it is not gone."""
    round: Natural = 0
    """The owner's refresh that the time is of; 0: known from the document alone. Who knows of that refresh already learns no
    longer time from this: else two who tell each other of a dead peer's claim would keep it alive."""


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    """The sender leaves on purpose: its claims have ended, no need to suspect it first. Its voice goes with it, so it tells
    whose claims it has acknowledged: without that, those who stay could make a majority that knows nothing of them."""

    known: Annotated[tuple[Disclosed, ...], Meta(max_length=MAX_RESOURCES)] = ()
    partial: bool = False
    """Not all of them are told: the sender is to be counted like one that vanished."""


class Claim(Message, frozen=True, kw_only=True, tag="claim"):
    """Ask (`granted` false) or renew (true). `round` counts the sender's refreshes; the claim counts at the receiver for
    `hold_ms` from now on, and the sender may rely on it for as long since sending."""

    claim: ClaimBody
    round: Natural
    hold_ms: Millis
    granted: bool = False
    grade: Grade = "provisional"


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """The answer to a `Claim`, always sent. `yields`: claims of the sender's own that gave way. `counts`: whether this
    acknowledgement may be counted towards a quorum (false while the sender may have lost its memory of claims)."""

    id: Id
    round: Natural
    yields: Annotated[tuple[Id, ...], Meta(max_length=MAX_RESOURCES)] = ()
    disclosed: Annotated[tuple[Disclosed, ...], Meta(max_length=MAX_RESOURCES)] = ()
    lamport: Natural = 0
    counts: bool = True


class Granted(Message, frozen=True, kw_only=True, tag="granted"):
    """The claim is granted: sent to those who wait for it, so that they know for whom."""

    id: Id
    grade: Grade


class Left(msgspec.Struct, frozen=True, array_like=True):
    """What the holder leaves behind for the next one. The same is in its feed; who waits must not have to wait for that, too."""

    commit: Commit
    branch: Annotated[str, Meta(max_length=250)]
    at: Time
    stamp: Natural
    resources: Annotated[tuple[Resource, ...], Meta(max_length=MAX_RESOURCES)] = ()
    """Those that it was left on, if they are not all that the claim was on."""


class End(Message, frozen=True, kw_only=True, tag="end"):
    """The claim has ended for good; it also counts as a yield."""

    id: Id
    reason: Text = ""
    left: Left | None = None


class Renew(Message, frozen=True, kw_only=True, tag="renew"):
    """Refresh of many granted claims of the sender's incarnation at once, by their numbers; each for its full ttl."""

    incarnation: Natural
    round: Natural
    numbers: Annotated[tuple[Natural, ...], Meta(max_length=MAX_RENEWED)] = ()


class RenewAck(Message, frozen=True, kw_only=True, tag="renewack"):
    """The claims of a `Renew` are known, live and free of conflict at the sender, all but `unsettled`, which are to be
    claimed in full."""

    incarnation: Natural
    round: Natural
    unsettled: Annotated[tuple[Natural, ...], Meta(max_length=MAX_RENEWED)] = ()
    lamport: Natural = 0
    counts: bool = True


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the strict table that may be taken over if it is still as it was: its owner was not seen to renew it for longer
    than it counts. `renewals` -1: whatever it is, for its owner has said that it ended."""

    claim: Id
    token: Natural = 0
    renewals: Annotated[int, Meta(ge=-1, lt=1 << 53)] = -1


class StrictAcquire(msgspec.Struct, frozen=True, array_like=True, tag="acquire"):
    """Put a claim into the table. Its id is the operation's: however often it is sent, it is granted once. `ask` counts the
    times that its owner sent it, so that the owner knows since when it may be there."""

    claim: ClaimBody
    ask: Natural
    gone: Annotated[tuple[Seen, ...], Meta(max_length=MAX_RESOURCES)] = ()
    since: Id = "-"


class StrictRenew(msgspec.Struct, frozen=True, array_like=True, tag="renew"):
    """Let entries count for their ttl anew: all of a peer at once."""

    id: Id
    claims: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_STRICT_CLAIMS)]


class StrictRelease(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Take entries out. One that is not there is not to come any more either."""

    id: Id
    claims: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_STRICT_CLAIMS)]


StrictOp: TypeAlias = StrictAcquire | StrictRenew | StrictRelease


class InTheWay(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the table, as far as a refusal names it."""

    claim: Id
    agent: Agent
    resources: Annotated[tuple[Resource, ...], Meta(max_length=MAX_IN_THE_WAY)]
    priority: Priority
    token: Natural
    renewals: Natural
    ttl_ms: TtlMs
    note: Text = ""


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """An entry that was not renewed: it is gone, or a higher priority wants it. `agent`, `token`: who has or wants it, if known."""

    claim: Id
    reason: Literal["gone", "preempted"]
    agent: Text = ""
    token: Natural = 0


class StrictResult(msgspec.Struct, frozen=True, array_like=True):
    """What became of an operation. held: `holders` are in the way; ended: it was released or taken over since; full: no room."""

    kind: Literal["done", "held", "ended", "full"]
    token: Natural = 0
    ask: Natural = 0
    holders: Annotated[tuple[InTheWay, ...], Meta(max_length=MAX_IN_THE_WAY)] = ()
    lost: Annotated[tuple[Lost, ...], Meta(max_length=MAX_STRICT_CLAIMS)] = ()


class StrictAsk(Message, frozen=True, kw_only=True, tag="sask"):
    """Do this on the strict table for me: the receiver does what several peers want in one push."""

    op: StrictOp


class StrictAnswer(Message, frozen=True, kw_only=True, tag="sanswer"):
    """What became of the operation of that id, or (`result` None) why it could not be done here."""

    id: Id
    result: StrictResult | None = None
    reason: Text = ""


WireMessage: TypeAlias = (
    Hello
    | Members
    | Heads
    | Envelopes
    | Presence
    | Bye
    | RecordOffer
    | Claim
    | Ack
    | Granted
    | End
    | Renew
    | RenewAck
    | StrictAsk
    | StrictAnswer
)


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """Gossip: an encoded message, who says it, and the signature over topic and payload."""

    peer: Id
    payload: Annotated[bytes, Meta(max_length=MAX_ENVELOPE_BYTES * 2)]
    signature: Annotated[bytes, Meta(max_length=64)]


_message_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Annotated[tuple[WireMessage, ...], Meta(max_length=MAX_MESSAGES)])
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_message_decoder = msgspec.msgpack.Decoder(WireMessage)
_signed_decoder = msgspec.msgpack.Decoder(Signed)
KNOWN_TAGS: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(WireMessage))


class _Tag(msgspec.Struct):
    t: str


_tag_decoder = msgspec.msgpack.Decoder(_Tag)


def encode_frame(messages: tuple[WireMessage, ...] | list[WireMessage]) -> bytes:
    """The bytes of a batch."""
    return _message_encoder.encode(messages)


def decode_frame(frame: bytes) -> tuple[WireMessage, ...]:
    """The messages of a frame, those of unknown type left out.

    Raises:
        ProtocolError: too large, or not what a frame looks like.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame of {len(frame)} bytes, {MAX_FRAME_BYTES} allowed")
    try:
        found: tuple[WireMessage, ...] = _frame_decoder.decode(frame)
        return found
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # something in it is of a newer version, or malformed: below one by one
    try:
        parts = _raw_decoder.decode(frame)
        if len(parts) > MAX_MESSAGES:
            raise ProtocolError(f"{len(parts)} messages in a frame, {MAX_MESSAGES} allowed")
        return tuple(_message_decoder.decode(part) for part in parts if _tag_decoder.decode(part).t in KNOWN_TAGS)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed frame: {error}") from None


def encode_signed(signed: Signed) -> bytes:
    """The bytes of a gossip message."""
    return _message_encoder.encode(signed)


def decode_signed(data: bytes) -> Signed:
    """A gossip message; its signature is not checked here.

    Raises:
        ProtocolError: not what one looks like.
    """
    try:
        return _signed_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed gossip: {error}") from None


def encode_message(message: WireMessage) -> bytes:
    """The bytes of one message, for gossip."""
    return _message_encoder.encode(message)


def decode_message(data: bytes) -> WireMessage:
    """One message out of gossip.

    Raises:
        ProtocolError: not what one looks like.
    """
    try:
        message: WireMessage = _message_decoder.decode(data)
        return message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed message: {error}") from None
