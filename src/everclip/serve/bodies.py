"""Bodies of requests: not too long, not for ever, and not all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everclip.serve.limits import Limits

LESSONS = "/tasks"
"""Where lessons are sent to; their files go to disk and count for no memory."""
NEWS = 1000
"""Bytes that a slow upload must bring within `Limits.stalled`."""
_CLOSE = {"Connection": "close"}


class BodyLimit:
    """Refuses a body that is too long, that stalls, or for which there is no memory now.

    Too long a body is refused before it is read if the request says its length, else while it is read.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch what the request's body brings."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        lesson = scope["path"] == LESSONS
        limit = self._limits.lesson_bytes if lesson else self._limits.request_bytes
        told = _content_length(scope["headers"])
        sentence = f"the request is longer than the {limit / 1e6:g} MB that it may be; send fewer or smaller images."
        if told is not None and told > limit:
            return await JSONResponse({"error": sentence}, 413, _CLOSE)(scope, receive, send)
        read, held, news, more = 0, 0, 0, True
        late = time.monotonic() + self._limits.stalled

        async def watched() -> Message:
            nonlocal read, held, news, more, late
            if not more:  # what comes now is that the caller has gone, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, late - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(
                    408, f"the upload stalled for {self._limits.stalled:g} s and was dropped; send it again.", _CLOSE
                ) from None
            size, more = len(message.get("body", b"")), message.get("more_body", False)
            read, news = read + size, news + size
            if news >= NEWS:
                news, late = 0, time.monotonic() + self._limits.stalled
            if read > limit:
                raise HTTPException(413, sentence, _CLOSE)
            if not lesson:
                held += size
                self._held += size
                if self._held > self._limits.held_bytes:
                    raise HTTPException(
                        503,
                        "too many large requests are under way; try again in a moment.",
                        _CLOSE | {"Retry-After": "1"},
                    )
            return message

        try:
            await self._app(scope, watched, send)
        finally:
            self._held -= held


def _content_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
