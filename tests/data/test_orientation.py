"""An orientation is found whatever else the metadata say, in every format that has one."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from everclip.data.decode import as_rgb, load_rgb

PICTURES = Path(__file__).parent / "pictures"
HALVES = np.zeros((40, 80, 3), dtype=np.uint8)
HALVES[:, :40] = 255
ORIENTATION = 0x0112
TURNED = (ORIENTATION, 3, 1, struct.pack("<H", 6))

Entry = tuple[int, int, int, bytes]

DAMAGED: dict[str, Entry] = {
    "a fraction of a negative number": (0x011A, 10, 1, struct.pack("<2i", -1, 0)),
    "a negative number where none can be": (0x0128, 8, 1, struct.pack("<h", -1)),
    "a negative resolution": (0x011A, 9, 1, struct.pack("<i", -5)),
    "no number": (0x011A, 11, 1, struct.pack("<f", float("nan"))),
    "a text beyond the end": (0x010F, 2, 4000, struct.pack("<I", 100_000)),
    "a directory beyond the end": (0x8825, 4, 1, struct.pack("<I", 999_999)),
    "a text for a directory": (0x8769, 2, 4, b"abc\0"),
    "a negative directory": (0x014A, 9, 1, struct.pack("<i", -8)),
    "a number of 8 bytes": (0x9999, 16, 1, struct.pack("<Q", 2**40)),
    "an unknown type": (0x0001, 99, 7, b"abcd"),
}


def block(*entries: Entry) -> bytes:
    """EXIF of one directory, little-endian: (tag, type, count, value of any length)."""
    entries = tuple(sorted(entries))
    base = 8 + 2 + 12 * len(entries) + 4
    directory, beyond = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            beyond, value = beyond + value, struct.pack("<I", base + len(beyond))
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + beyond


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.fromarray(HALVES).save(buffer, kind, **options)
    return buffer.getvalue()


def shown(content: bytes) -> str:
    """Where the white half is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = np.asarray(load_rgb(content, "x")).astype(int)[..., 0] > 127
    return "left" if pixels[:, 0].all() else "top" if pixels[0].all() else "elsewhere"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_tag_does_not_lose_the_orientation(kind: str, damage: Entry):
    assert shown(encoded(kind, exif=block(TURNED))) == "top"
    assert shown(encoded(kind, exif=block(TURNED, damage))) == "top"
    assert shown(encoded(kind, exif=block(damage))) == "left"


@pytest.mark.parametrize(
    "entry",
    [
        (1, 1, b"\6"),
        (2, 2, b"6\0"),
        (3, 1, b"\6\0"),
        (3, 2, b"\6\0\6\0"),
        (4, 1, b"\6\0\0\0"),
        (5, 1, struct.pack("<2I", 6, 1)),
    ],
    ids=["byte", "text", "short", "two", "long", "fraction"],
)
def test_any_type_that_has_been_seen(entry: tuple[int, int, bytes]):
    assert shown(encoded("JPEG", exif=block((ORIENTATION, *entry)))) == "top"


@pytest.mark.parametrize("value", [0, 9, 6 << 8, 65535])
def test_what_is_no_orientation_turns_nothing(value: int):
    assert shown(encoded("JPEG", exif=block((ORIENTATION, 3, 1, struct.pack("<H", value))))) == "left"


def tiff(*more: Entry) -> bytes:
    """An uncompressed TIFF, with tags of our own behind those that Pillow writes."""
    content = encoded("TIFF")
    (start,) = struct.unpack_from("<L", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    own = [content[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    own = [entry for entry in own if struct.unpack("<H", entry[:2])[0] not in {tag for tag, *_ in more}]
    made, base, beyond = [], len(content) + 2 + 12 * (len(own) + len(more)) + 4, b""
    for tag, kind, number, value in more:
        if len(value) > 4:
            beyond, value = beyond + value, struct.pack("<I", base + len(beyond))
        made.append(struct.pack("<HHI", tag, kind, number) + value.ljust(4, b"\0"))
    entries = sorted(own + made, key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + beyond
    return content[:4] + struct.pack("<L", len(content)) + content[8:] + directory


def test_a_tiff_is_turned_once_whatever_other_tags_say():
    assert shown(tiff()) == "left"
    assert shown(tiff(TURNED)) == "top"
    for name in ("a fraction of a negative number", "a negative resolution", "no number"):
        assert shown(tiff(TURNED, DAMAGED[name])) == "top", name
        assert shown(tiff(DAMAGED[name])) == "left", name


def test_the_tags_of_an_image_in_memory_stay():
    image = Image.open(io.BytesIO(tiff(TURNED, (0x010F, 2, 8, b"EverCam\0"))))
    assert as_rgb(image, "x").size == (40, 80)
    assert image.getexif()[0x010F] == "EverCam"
    assert as_rgb(image, "x").size == (40, 80), "a second time it is upright already"


def test_heic_is_turned_by_its_decoder_alone():
    for name, place in (("plain", "left"), ("turned", "top")):
        pixels = np.asarray(load_rgb(PICTURES / f"{name}.heic", name)).astype(int)
        assert pixels.shape == ((40, 80, 3) if place == "left" else (80, 40, 3))
        assert np.abs(pixels[2, 2] - (200, 30, 30)).max() < 12
        assert np.abs(pixels[-3, -3] - (30, 30, 200)).max() < 12
    # Its EXIF says "turn" as well, as phones leave it there: it must not be turned twice.
    assert b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06" in (PICTURES / "turned.heic").read_bytes()


def test_avif_is_turned_once_whatever_other_tags_say():
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x011A] = 6, 72.0
    content = encoded("AVIF", exif=exif)
    assert b"irot" in content
    assert shown(content) == "top"
    fraction, signed = b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x09"  # a resolution; as a whole number it is negative
    place = content.find(fraction)
    assert place > 0
    damaged = content[:place] + signed + content[place + 4 : place + 8] + b"\xff" * 4 + content[place + 12 :]
    assert shown(damaged) == "top"


def test_an_orientation_in_xmp_alone():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert shown(encoded("JPEG", xmp=xmp)) == "top"
    assert shown(encoded("JPEG", xmp=xmp, exif=block((ORIENTATION, 3, 1, struct.pack("<H", 1))))) == "left"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_as_pillow_turns_them(orientation: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
    assert np.array_equal(np.asarray(load_rgb(buffer.getvalue(), "x")), expected)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_no_block_of_exif_keeps_the_pixels_from_being_read(garbage: bytes, kind: str):
    content = encoded(kind, exif=b"Exif\0\0II*\0" + garbage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sorted(load_rgb(content, "x").size) == [40, 80]
