"""Forms are read as they come: any number of files, in any pieces, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from everclip.errors import InputError
from everclip.serve import Service, create_app
from everclip.serve.forms import FIELD_BYTES, read_form

from .conftest import photos

MULTIPART = "multipart/form-data; boundary=x"


class Kept(io.BytesIO):
    closed_once = False

    def close(self) -> None:
        self.closed_once = True


def read(body: bytes, kind: str = MULTIPART, piece: int = 1 << 16) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)] or [b""]

    async def receive() -> dict[str, object]:
        content = pieces.pop(0)
        return {"type": "http.request", "body": content, "more_body": bool(pieces)}

    request = Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)
    opened: list[tuple[str, Kept]] = []

    def keep(name: str) -> Kept:
        opened.append((name, Kept()))
        return opened[-1][1]

    try:
        fields = asyncio.run(read_form(request, keep))
    finally:
        assert all(file.closed_once for _, file in opened)
    return fields, [(name, file.getvalue()) for name, file in opened]


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    said = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--x\r\nContent-Disposition: " + said.encode() + b"\r\n\r\n" + content + b"\r\n"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(1, 50))
def test_files_and_fields_come_out_as_they_went_in(contents: list[bytes], piece: int) -> None:
    contents = [content for content in contents if b"\r\n--x" not in content]
    body = part("name", "birds é".encode()) + b"".join(
        part("files", content, f"a/{n}.png") for n, content in enumerate(contents)
    )
    fields, files = read(body + part("more", b"") + b"--x--\r\n", piece=piece)
    assert fields == {"name": ["birds é"], "more": [""]}
    assert files == [(f"a/{n}.png", content) for n, content in enumerate(contents)]


WHOLE = part("name", b"birds") + part("files", b"content", "a/b.png") + b"--x--\r\n"


@pytest.mark.parametrize("end", range(1, len(WHOLE) - 4))
def test_a_form_that_is_cut_short_is_refused(end: int) -> None:
    with pytest.raises(InputError, match=r"cut short|not valid"):
        read(WHOLE[:end])


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([MULTIPART, "multipart/form-data", "multipart/form-data; boundary="]))
def test_whatever_comes_is_a_form_or_one_sentence(body: bytes, kind: str) -> None:
    with contextlib.suppress(InputError):
        read(b"--x\r\n" + body, kind)


def test_what_does_not_belong_there() -> None:
    with pytest.raises(InputError, match="file in the field 'other'"):
        read(part("other", b"content", "a.png") + b"--x--\r\n")
    with pytest.raises(InputError, match="longer than"):
        read(part("name", bytes(FIELD_BYTES + 1)) + b"--x--\r\n")
    with pytest.raises(InputError, match="longer than"):
        read(b"name=" + b"a" * FIELD_BYTES, "application/x-www-form-urlencoded")
    with pytest.raises(InputError, match="too many fields"):
        read(b"&".join(b"a=b" for _ in range(101)), "application/x-www-form-urlencoded")
    assert read(b"name=birds%20of%20prey&labels=a%2Cb&only=", "application/x-www-form-urlencoded")[0] == {
        "name": ["birds of prey"], "labels": ["a,b"], "only": [""]
    }  # fmt: skip
    assert read(b"anything", "text/plain") == ({}, [])


def test_a_setting_of_images_holds_whatever_it_is(serving: Callable[..., Service], folders: list[Path]) -> None:
    client = TestClient(create_app(serving(images=1300, decoders=1)))
    image = photos(folders[0])[0].read_bytes()
    files = [("files", (f"{n}.png", image if n == 1299 else b"no image")) for n in range(1300)]
    response = client.post("/predict/batch", files=files)
    assert response.status_code == 200
    answers = response.json()["answers"]
    assert [answer["name"] for answer in answers] == [f"{n}.png" for n in range(1300)]
    assert [answer["error"] is None for answer in answers] == [False] * 1299 + [True]
    refused = client.post("/predict/batch", files=[*files, files[0]])
    assert (refused.status_code, "1300 images" in refused.json()["error"]) == (413, True)


def test_a_lesson_has_more_than_a_thousand_files(serving: Callable[..., Service]) -> None:
    client = TestClient(create_app(serving(lesson_images=1200)))
    files = [("files", (f"red/{n}.png", b"no image")) for n in range(1201)]
    assert client.post("/tasks", data={"name": "x"}, files=files[:1200]).status_code == 202
    refused = client.post("/tasks", data={"name": "x"}, files=files)
    assert refused.status_code == 400
    assert "more than the 1200 images" in refused.json()["error"]
