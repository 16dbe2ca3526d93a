"""Every refusal is JSON with one sentence in `error`; the service lives on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from everclip.errors import EverclipError, InputError
from everclip.serve.batching import Busy
from everclip.serve.service import NoRoom
from everclip.system.display import visible

log = logging.getLogger("everclip.serve")


def say_errors_in_a_sentence(app: FastAPI) -> None:
    """Give an app the answers to what is wrong."""

    def says(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return says(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"][1:]) or str(first["loc"][0])
        if first["type"] == "missing":
            return says(422, f"the request has no {where}; send it.")
        return says(422, f"{where}: {first['msg']}.")

    @app.exception_handler(EverclipError)
    def impossible(request: Request, error: EverclipError) -> JSONResponse:
        if isinstance(error, NoRoom):
            return says(507, str(error), {"Connection": "close"})
        return says(400 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        return says(503, f"{error}; try again in a moment.", {"Retry-After": "1"})

    @app.exception_handler(TimeoutError)
    def late(request: Request, error: TimeoutError) -> JSONResponse:
        return says(504, "no answer in time; send fewer images at once, or try again.")

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return says(400, "the request ended before it was complete.")  # to nobody

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, visible(request.url.path), exc_info=error)
        return says(500, "the service failed on this request; its log says why.")
