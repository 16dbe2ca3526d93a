"""Images of many requests, decoded by a few threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError

import numpy as np
from PIL import Image

from everclip.data import BadImage, load_rgb, stated_pixels
from everclip.serve.batching import Busy
from everclip.serve.limits import LARGE, Limits

View = np.ndarray
"""(3, S, S) uint8."""


class Decoders:
    """Decodes images in a pool of its own, so that what waits costs no memory and keeps nobody else from an answer.

    Each request has a few images in the pool at a time: one that brings many does not make the others wait for all of
    them. Large images have a thread of their own, because a few of them would fill the memory, and because small ones
    must not wait for them.

    Args:
        view: what the tower sees of an image (mode RGB).
        limits: threads, pixels of an image, images that may wait.
    """

    def __init__(self, view: Callable[[Image.Image], View], limits: Limits) -> None:
        self._view = view
        self._limits = limits
        self._small = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decoder")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large-decoder")
        self._waiting = 0
        self._count = threading.Lock()

    def views(self, images: Sequence[tuple[str, bytes]], deadline: float) -> list[View | BadImage]:
        """Decode some images.

        Args:
            images: (name, content of the file).
            deadline: by `time.monotonic`.

        Returns:
            Per image its view, or why it can't be used.

        Raises:
            Busy: too many images wait already.
            TimeoutError: they are not decoded by then, or the service ends.
        """
        with self._count:
            if self._waiting and self._waiting + len(images) > self._limits.waiting:
                raise Busy(f"{self._waiting} images wait already")
            self._waiting += len(images)
        under_way: deque[Future[View | BadImage]] = deque()
        views: list[View | BadImage] = []
        rest = iter(images)
        try:
            while len(views) < len(images):
                while len(under_way) < 2 and (image := next(rest, None)) is not None:
                    under_way.append(self._submit(*image))
                views.append(under_way.popleft().result(max(0.0, deadline - time.monotonic())))
            return views
        except (CancelledError, FuturesTimeoutError) as error:
            raise TimeoutError from error
        finally:
            for each in under_way:
                each.cancel()
            with self._count:
                self._waiting -= len(images)

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)

    def _submit(self, name: str, content: bytes) -> Future[View | BadImage]:
        pool = self._large if stated_pixels(content) > LARGE else self._small
        try:
            return pool.submit(self._decoded, name, content)
        except RuntimeError as error:  # closed
            raise CancelledError from error

    def _decoded(self, name: str, content: bytes) -> View | BadImage:
        try:
            return self._view(load_rgb(content, name, self._limits.pixels))
        except BadImage as error:
            return error
        except MemoryError:
            return BadImage(name, "there is no memory for it now")
