"""HTTP for the rehearsal server: aiohttp's low-level server, bodies read within limits, and hanging up.

A whole aiohttp application's routing and middleware would cost as much again as the answer. It belongs to the server's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from troupelab.models.rehearsal.reading import MAX_BODY_BYTES, Refused

__all__ = ["Handlers", "hang_up", "read_body"]

_BODY_S = 60.0
_LOSS_S = 10.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Handlers(web.Server):
    """Makes a protocol for each connection.

    Args:
        handle: answers a request; it is cancelled when the client goes away.
        lost: is told each connection that has ended.
    """

    def __init__(
        self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], lost: Callable[[object], None]
    ) -> None:
        # What aiohttp would log is the client's doing: broken HTTP, and connections that end early.
        quiet = logging.getLogger(__name__)
        quiet.disabled = True
        super().__init__(handle, handler_cancellation=True, access_log=None, logger=quiet)
        self._lost = lost
        self._transports: dict[RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Note a new connection."""
        super().connection_made(handler, transport)
        self._transports[handler] = transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Note that a connection has ended."""
        super().connection_lost(handler, exc)
        self._transports.pop(handler, None)
        self._lost(handler)

    async def end(self) -> None:
        """Close all connections at once, whatever they wait for; aiohttp's own shutdown would wait for its clients."""
        while self._transports:
            for transport in list(self._transports.values()):
                transport.abort()
            await asyncio.sleep(0)


async def read_body(request: web.BaseRequest) -> bytes:
    """Read a body, within the limits on its size and time.

    Raises:
        Refused: it is too long, too slow, or not what its headers say.
        ConnectionError: the client has gone.
    """
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_long()
    content = request.content
    if content.is_eof() and content.exception() is None:  # all of it is here, and no clock need be set
        body = content.read_nowait()
        if len(body) > MAX_BODY_BYTES:
            raise _too_long()
        return body
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            while part := await content.readany():
                parts.append(part)
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _too_long()
    except TimeoutError as error:
        raise Refused(408, f"The request's body did not arrive within {_BODY_S:g} s.", close=True) from error
    except web.RequestPayloadError as error:
        raise Refused(400, "The request's body is not what its headers say.", close=True) from error
    return b"".join(parts)


def _too_long() -> Refused:
    return Refused(
        413, f"The request's body is longer than {MAX_BODY_BYTES} bytes.", code="request_too_large", close=True
    )


async def hang_up(request: web.BaseRequest) -> web.Response:
    """Close the connection at once; what follows is the cancellation that the loss of a connection brings."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(_LOSS_S)
    return web.Response(status=500)
