"""A bounded pool decodes: time counts, large images take turns, and nobody waits for another's many images."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from everclip.data import BadImage
from everclip.serve import Limits, Service, create_app, decoding
from everclip.serve.batching import Busy
from everclip.serve.decoding import Decoders
from everclip.serve.limits import LARGE

from .conftest import photos


def png(width: int, height: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


class Watched:
    """A view that waits until it is let, and knows how many wait in it at once, and for what."""

    def __init__(self) -> None:
        self.lock, self.go = threading.Lock(), threading.Event()
        self.inside: list[int] = []
        self.most = 0
        self.order: list[int] = []

    def __call__(self, image: Image.Image) -> np.ndarray:
        with self.lock:
            self.inside.append(image.width)
            self.order.append(image.width)
            self.most = max(self.most, len(self.inside))
        assert self.go.wait(30)
        with self.lock:
            self.inside.remove(image.width)
        return np.full((3, 1, 1), image.width % 251, dtype=np.uint8)


def soon() -> float:
    return time.monotonic() + 30


def test_answers_come_in_the_order_of_the_images_and_few_are_decoded_at_once() -> None:
    view = Watched()
    view.go.set()
    decoders = Decoders(view, Limits(decoders=2))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(decoders.views, [("", png(n)) for n in range(1, 20)], soon()) for _ in range(8)]
        for each in asked:
            assert [int(found[0, 0, 0]) for found in each.result()] == list(range(1, 20))
    assert view.most <= 2
    decoders.close()


def test_large_images_take_turns_and_small_ones_pass_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE", 100)
    view = Watched()
    decoders = Decoders(view, Limits(decoders=2))
    with ThreadPoolExecutor(6) as pool:
        large = [pool.submit(decoders.views, [("", png(200))], soon()) for _ in range(3)]
        while not view.inside:
            time.sleep(0.01)
        small = [pool.submit(decoders.views, [("", png(5))], soon()) for _ in range(3)]
        while len(view.inside) < 3:
            time.sleep(0.01)
        assert sorted(view.inside) == [5, 5, 200]
        view.go.set()
        assert all(each.result() for each in [*large, *small])
    decoders.close()


def test_who_brings_many_images_does_not_make_the_others_wait_for_all_of_them() -> None:
    view = Watched()
    decoders = Decoders(view, Limits(decoders=1))
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(decoders.views, [("", png(9)) for _ in range(50)], soon())
        while not view.inside:
            time.sleep(0.01)
        one = pool.submit(decoders.views, [("", png(3))], soon())
        time.sleep(0.1)
        view.go.set()
        one.result()
        many.result()
    assert view.order.index(3) <= 3
    decoders.close()


def test_a_deadline_counts_while_images_are_decoded_and_what_is_not_begun_is_dropped() -> None:
    view = Watched()
    decoders = Decoders(view, Limits(decoders=1))
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        decoders.views([("", png(1))] * 5, begun + 0.2)
    assert time.monotonic() - begun < 5
    view.go.set()
    decoders.close()
    assert len(view.order) <= 2
    with pytest.raises(TimeoutError):
        decoders.views([("", png(1))], soon())


def test_more_than_may_wait_is_refused_at_once() -> None:
    view = Watched()
    decoders = Decoders(view, Limits(decoders=1, waiting=3))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(decoders.views, [("", png(1))] * 2, soon())
        while not view.inside:
            time.sleep(0.01)
        with pytest.raises(Busy, match="2 images wait"):
            decoders.views([("", png(1))] * 2, soon())
        view.go.set()
        first.result()
    assert len(decoders.views([("", png(1))] * 9, soon())) == 9, "alone, a large request is no crowd"
    decoders.close()


def test_a_bad_image_is_told_and_no_memory_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(lambda image: np.zeros((3, 1, 1), np.uint8), Limits(pixels=100))
    good, large, bad = decoders.views([("a", png(10)), ("b", png(101)), ("c", b"no")], soon())
    assert isinstance(good, np.ndarray)
    assert isinstance(large, BadImage)
    assert "more than 0.0001 megapixels" in str(large)
    assert isinstance(bad, BadImage)

    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "load_rgb", full)
    (refused,) = decoders.views([("a", png(10))], soon())
    assert "no memory" in str(refused)
    decoders.close()


def test_decoding_counts_towards_the_seconds_of_an_answer(
    serving: Callable[..., Service], folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TestClient(create_app(serving(seconds=0.3)), raise_server_exceptions=False)
    go = threading.Event()
    plain = decoding.load_rgb

    def slowly(*args: object) -> Image.Image:
        assert go.wait(30)
        return plain(*args)

    with monkeypatch.context() as slow:
        slow.setattr(decoding, "load_rgb", slowly)
        late = client.post("/predict", content=photos(folders[0])[0].read_bytes())
        assert late.status_code == 504
        assert client.get("/health").status_code == 200
        go.set()


def test_whatever_waits_for_its_images_health_does_not(
    serving: Callable[..., Service], folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving()
    client = TestClient(create_app(service), raise_server_exceptions=False)
    image = photos(folders[0])[0].read_bytes()
    go = threading.Event()
    plain = decoding.load_rgb

    def slowly(*args: object) -> Image.Image:
        assert go.wait(60)
        return plain(*args)

    with client, ThreadPoolExecutor(80) as pool, monkeypatch.context() as slow:
        slow.setattr(decoding, "load_rgb", slowly)
        asked = [pool.submit(client.post, "/predict", content=image) for _ in range(80)]
        while service._decoders._waiting < 64:
            time.sleep(0.01)
        for path in ("/health", "/", "/docs", "/tasks"):
            assert client.get(path).status_code == 200
        go.set()
        assert {each.result().status_code for each in asked} == {200}


def test_bodies_of_all_requests_together_are_bounded(serving: Callable[..., Service], folders: list[Path]) -> None:
    client = TestClient(create_app(serving(held_bytes=10_000)))
    crowd = client.post("/predict", content=bytes(10_001))
    assert (crowd.status_code, crowd.headers["retry-after"]) == (503, "1")
    image = photos(folders[0])[0].read_bytes()
    for _ in range(10_000 // len(image) + 2):
        assert client.post("/predict", content=image).status_code == 200
    assert client.post("/tasks", data={"name": "x"}, files=[("files", ("a/b.png", bytes(20_000)))]).status_code == 202


def test_what_is_refused_gives_back_what_it_held(serving: Callable[..., Service]) -> None:
    client = TestClient(create_app(serving(held_bytes=4000, request_bytes=5000)))
    for _ in range(5):
        assert client.post("/predict", content=iter([bytes(3000), bytes(3000)])).status_code == 413
    for size, status in ((4500, 503), (3900, 400), (4500, 503)):
        assert client.post("/predict", content=bytes(size)).status_code == status


def test_the_bound_of_memory_follows_from_the_limits() -> None:
    small = Limits(held_bytes=1000, pixels=100, decoders=1, waiting=10)
    assert small.memory(2) == 2000 + 32 * 200 + 120
    assert Limits(pixels=LARGE).memory(224) < Limits(pixels=2 * LARGE).memory(224) < Limits().memory(224) < 4e9
