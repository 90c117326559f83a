"""Small things on libp2p streams: one of a protocol on a given connection, who may open which, protobuf messages with their length
in front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

MAX_MESSAGE_BYTES: Final = 4 << 10
"""Of relays and hole punching: an id and a few addresses; the limit that DCUtR names."""
ANSWER_SECONDS: Final = 5.0
"""For one message: a round trip, with a lost packet repeated."""

M = TypeVar("M", bound=Message)


async def open_stream(connection: Any, protocol: TProtocol) -> Any:
    """A new stream on that very connection. (Fault: the host's own `new_stream` takes any connection of the peer, and dials.)"""
    stream: Any = None
    # Fault: whoever is cancelled while it opens leaves it behind, here and there. Nothing is waited for but a frame to be written.
    with trio.CancelScope(shield=True, deadline=trio.current_time() + ANSWER_SECONDS):
        stream = await connection.new_stream()
    if stream is None:
        raise trio.TooSlowError
    with trio.fail_after(ANSWER_SECONDS):
        try:
            await MultiselectClient().select_one_of([protocol], MultiselectCommunicator(stream), int(ANSWER_SECONDS))
        except BaseException:
            await drop(stream)
            raise
    stream.set_protocol(protocol)
    return stream


async def drop(stream: Any) -> None:
    """Reset it, whatever state it is in. Also while cancelled."""
    with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
        await stream.reset()


async def say(stream: Any, message: Message) -> None:
    """Write a message."""
    with trio.fail_after(ANSWER_SECONDS):
        await stream.write(encode_varint_prefixed(message.SerializeToString()))


async def hear(stream: Any, kind: type[M], *, limit: int = MAX_MESSAGE_BYTES) -> M:
    """Read a message.

    Raises:
        ProtocolError: it is none of that kind.
        trio.TooSlowError: it did not come in time.
    """
    with trio.fail_after(ANSWER_SECONDS):
        data = await read_varint_prefixed_bytes_limited(stream, limit)
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"no {kind.__name__}: {error}") from None
    return message


def gate_protocols(host: IHost, may_use: Callable[[PeerId], bool], *, open_to_all: Iterable[TProtocol]) -> None:
    """Fault: a handler is open to whoever is connected. Peers that may not use protocols get these alone. Call it when all handlers
    are set."""
    handlers: Any = host.get_mux().handlers

    def gated(handle: Callable[[INetStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
        async def checked(stream: INetStream) -> None:
            if may_use(stream.muxed_conn.peer_id.to_base58()):
                await handle(stream)
            else:
                await stream.reset()

        return checked

    for protocol, handle in list(handlers.items()):
        if protocol not in open_to_all and handle is not None:
            handlers[protocol] = gated(handle)
