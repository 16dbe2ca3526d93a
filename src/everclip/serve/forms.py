"""Forms with files, read as they come: each file goes where its reader says, to memory or to disk.

Starlette's own reader keeps every file open until the form is complete, so that a lesson of some thousand photos runs
out of file descriptors, or holds them all in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import IO
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from everclip.errors import InputError

FIELD_BYTES = 1_000_000
"""All fields of a form that are no files, and each head of a file."""

MOST_FIELDS = 100
"""Values of a form of fields alone."""

Opened = Callable[[str], IO[bytes]]
"""File name → where its content goes; closed once it is complete."""


async def read_form(request: Request, opened: Opened) -> dict[str, list[str]]:
    """Read a form, its files in the field `files`.

    Args:
        request: whose body was not read yet.
        opened: called for each file, in their order, from another thread.

    Returns:
        The other fields, each with all its values, in the order in which they were sent.

    Raises:
        InputError: the body is no form, or cut short, or has a file in another field.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"application/x-www-form-urlencoded":
        return await _plain_fields(request)
    if kind != b"multipart/form-data":
        return {}
    form = _Form(options.get(b"boundary", b""), opened)
    try:
        async for chunk in request.stream():
            await run_in_threadpool(form.feed, chunk)
        form.end()
    finally:
        form.close()
    return form.fields


async def _plain_fields(request: Request) -> dict[str, list[str]]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FIELD_BYTES:
            raise _too_long()
    with suppress(ValueError):
        return parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    raise InputError("the form has too many fields; send those that the service knows.")


class _Form:
    """A form in `multipart/form-data` while it is read."""

    def __init__(self, boundary: bytes, opened: Opened) -> None:
        self.fields: dict[str, list[str]] = {}
        self._opened = opened
        self._file: IO[bytes] | None = None
        self._field = bytearray()
        self._head: dict[bytes, bytes] = {}
        self._header, self._value = bytearray(), bytearray()
        self._name = ""
        self._bytes = 0
        self._complete = False
        if not boundary:
            raise InputError("the form does not say its boundary; send it as multipart/form-data; boundary=….")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed() from error

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed() from error

    def end(self) -> None:
        """There is no more.

        Raises:
            InputError: but there should be.
        """
        if not self._complete:
            raise InputError("the form is cut short; send it again.")

    def close(self) -> None:
        """Close the file that is being read, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > FIELD_BYTES:
            raise _too_long()

    def _begin(self) -> None:
        self._head, self._field, self._name = {}, bytearray(), ""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._head[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._head.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options:
            return
        if self._name != "files":
            raise InputError(f"the form has a file in the field '{self._name}'; send files in the field files.")
        self._bytes = 0  # there may be many files, with a short head each
        self._file = self._opened(options[b"filename"].decode(errors="replace"))

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        else:
            self._count(end - start)
            self._field += data[start:end]

    def _end_part(self) -> None:
        if self._file is not None:
            self.close()
        elif self._name:
            self.fields.setdefault(self._name, []).append(self._field.decode(errors="replace"))

    def _end(self) -> None:
        self._complete = True


def _too_long() -> InputError:
    return InputError(f"the fields of the form are longer than {FIELD_BYTES / 1e6:g} MB; send less text.")


def _malformed() -> InputError:
    return InputError("the form is not valid multipart/form-data; let a program for HTTP write it.")
