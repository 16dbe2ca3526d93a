"""A process that was told to end does so in time, whatever it is in the middle of."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

GRACE = 4.0
"""Seconds in which a command may clear up after a signal; then the process ends as it is. Nothing on disk is lost by
that: whatever EverCLIP writes survives a kill at any moment."""

STOPS = (signal.SIGINT, signal.SIGTERM)

Stop = Callable[[int, FrameType | None], NoReturn]
"""A handler of signals that raises."""


def end_in_time(stop: Stop, grace: float = GRACE) -> None:
    """From now on, a signal that `stop` handles ends this process within `grace` seconds.

    Python runs a handler only between two steps of the main thread. A thread of its own therefore waits for the signal
    itself (`signal.set_wakeup_fd`), so that neither a long computation nor a thread that waits for a disk, nor a block
    that swallows what the handler raises, keeps the process alive. For the command line only: it owns its process.

    Args:
        stop: the handler; signals that come while a foreign one is installed (that of a server) are that one's.
        grace: seconds.
    """
    waiting, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)

    mine = (stop, signal.SIG_DFL, signal.default_int_handler)

    def watch(_kept: socket.socket = woken) -> None:
        while received := waiting.recv(1):
            number = received[0]
            if number in STOPS and signal.getsignal(number) in mine:
                threading.Event().wait(grace)
                _end(number)

    threading.Thread(target=watch, daemon=True, name="end in time").start()


def _end(number: int) -> NoReturn:
    name = signal.Signals(number).name
    said = f"everclip: stopped by {name} in the middle of work; give the command again (run with --resume) to go on.\n"
    try:
        os.write(2, said.encode())
    finally:
        os._exit(128 + number)
