"""The HTTP server: connections that bring nothing are dropped, and a signal ends it in time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import ClassVar

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

FINISHING = 3
"""Seconds that requests under way may still take after a signal."""
ENDING = 8.0
"""Seconds after a signal until the process ends, whatever is still under way."""


class PatientConnection(H11Protocol):
    """A connection that is closed when it does not bring the head of a request in time.

    The server itself waits for ever; for bodies see `BodyLimit`.
    """

    seconds: ClassVar[float] = 30.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop waiting when the head of a request is complete, and wait again when the next one begins."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """An app on a socket, until a signal ends it.

    Args:
        app: what answers.
        stalled: seconds without news of a request until its connection is closed.
    """

    def __init__(self, app: FastAPI, stalled: float) -> None:
        connection = type("Connection", (PatientConnection,), {"seconds": stalled})
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,
                ws="none",
                log_level="warning",
                access_log=False,
                proxy_headers=False,  # what a request says of itself decides nothing
                server_header=False,
                timeout_graceful_shutdown=FINISHING,
            )
        )

    def serve_on(self, bound: socket.socket) -> None:
        """Answer until a signal comes; then that signal is raised anew."""
        self.run(sockets=[bound])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End as a server does, but not later than in `ENDING` seconds."""
        super().handle_exit(sig, frame)
        timer = threading.Timer(ENDING, _end, [sig])
        timer.daemon = True
        timer.start()


def _end(number: int) -> None:
    """End at once. Whatever is on disk can take it: it could be a kill, which ends nothing in order."""
    name = signal.Signals(number).name
    print(
        f"everclip: stopped by {name} in the middle of work; lessons that were accepted go on at the next start.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + number)
