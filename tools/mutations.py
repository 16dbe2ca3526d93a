"""What a hostile or damaged file may look like: changes to bytes, values and tensors, drawn from a generator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

NUMBER = "\ue000number:"
"""Begins a text that stands for a number which JSON can say and Python's encoder would not."""
DEEP = 3000
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), NUMBER + "9" * 5000, NUMBER + "1e999", NUMBER + "-" + "1" * 100),
    *("", " ", "\x00", "\n", "\ud800", "\x1b[31m", "../../etc/passwd", "/dev/zero", "C:\\con", "x" * 10_000, "{}"),
    *("{}{}", "é" * 300, "embedded", "rail", "module:Class", "increment-0", "~"),
    *("working-0123456789abcdef.safetensors", "2024-01-01", "zero-shot", "cpu"),
    *([], {}, [[]], [None], {"": 0}, [0] * 1000, [1, 2], ["a", "b"], {"name": "a", "sha256": "0" * 64}),
)  # fmt: skip
"""In the place of any value."""


# -- bytes -------------------------------------------------------------------------------------------------------------


def bytes_of(random: Random, content: bytes) -> bytes:
    """A few changes to the bytes of a file, as a bad disk or somebody with an editor makes them."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5, 30))):
        place = random.randrange(len(changed) + 1)
        end = min(len(changed), place + random.choice((1, 2, 8, 64, 1000)))
        match random.randrange(8):
            case 0 | 1 if changed:
                changed[min(place, len(changed) - 1)] ^= 1 << random.randrange(8)
            case 2:
                del changed[place:]
            case 3:
                del changed[place:end]
            case 4:
                changed[place:place] = random.randbytes(random.choice((1, 4, 40)))
            case 5:
                changed[place:place] = changed[place:end] * random.choice((1, 2, 50))
            case 6:
                changed[place:end] = bytes(end - place)
            case _:
                changed[place:end] = random.choice(
                    (b"\xff\xfe", b'"', b"{", b"]", b",", b"-", b"NaN", b"9" * 60, b"\xef\xbb\xbf")
                )
    return bytes(changed)


def whole(random: Random) -> bytes:
    """A file that is something else altogether."""
    deep = (b"[" * 100_000, b'{"a":' * DEEP)
    return random.choice((b"", b"\n", b"null", b"[]", b"{}", b"3", b'"text"', b"\xff" * 100, bytes(1000), *deep))


# -- values ------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    stack = [value]
    while stack:
        inner = stack.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            yield inner, key
            stack.append(inner[key])


def value_of(random: Random, value: Any) -> Any:
    """A few changes to a value that JSON can say: other types, other names, what is missing or there twice."""
    changed = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(changed))
        if not places:
            return random.choice(STRANGE)
        inner, key = random.choice(places)
        match random.randrange(9):
            case 0 | 1 | 2:
                inner[key] = copy.deepcopy(random.choice(STRANGE))
            case 3:
                del inner[key]
            case 4:
                other, its = random.choice(places)
                inner[key] = (
                    copy.deepcopy(other[its]) if its in other or (isinstance(other, list) and its < len(other)) else 0
                )
            case 5 if isinstance(inner, dict):
                inner[random.choice(("", "format", "sha256", "name", "\x00", "x" * 500, f"{key}x"))] = inner.pop(key)
            case 5 | 6 if isinstance(inner, list):
                inner.insert(key, copy.deepcopy(inner[key]))
            case 7 if isinstance(inner[key], int | float):
                inner[key] = random.choice(
                    (inner[key] + 1, inner[key] - 1, -inner[key], inner[key] * 1e9, float(inner[key]))
                )
            case 7 if isinstance(inner[key], str):
                inner[key] = random.choice((inner[key][:-1], inner[key].upper(), inner[key] + "/..", inner[key] * 2))
            case _:
                deep: Any = 0
                for _ in range(random.choice((3, 40, 200))):
                    deep = [deep] if random.random() < 0.5 else {"a": deep}
                inner[key] = deep
    return changed


def json_bytes(random: Random, value: Any) -> bytes:
    """JSON, and what only looks like it: long numbers, NaN, a name that comes twice."""
    text = json.dumps(value, indent=random.choice((None, 1)))
    while (start := text.find(json.dumps(NUMBER)[:-1])) >= 0:
        end = text.index('"', start + 1)
        text = text[:start] + text[start + len(json.dumps(NUMBER)) - 1 : end] + text[end + 1 :]
    if random.random() < 0.05 and "{" in text:
        places = [place for place, letter in enumerate(text) if letter == "{"]
        place = random.choice(places) + 1
        end = text.find(",", place)
        text = text[:place] + text[place : end + 1] + text[place:] if end >= 0 else text
    return text.encode("utf-8", "surrogatepass")


# -- tensors -----------------------------------------------------------------------------------------------------------

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def tensors_of(random: Random, content: bytes) -> bytes:
    """A safetensors file whose tensors are called, shaped, typed or filled otherwise."""
    if random.random() < 0.15:
        return header_of(random, content)
    tensors = load(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not tensors:
            break
        name = random.choice(sorted(tensors))
        match random.randrange(6):
            case 0:
                tensors[random.choice((f"{name}x", "", "a.b.c", name.upper(), "method.", "99999999999.means"))] = (
                    tensors.pop(name)
                )
            case 1:
                del tensors[name]
            case 2:
                tensors[random.choice((f"{name}.more", "method.more", "reference.means", "7.held_out"))] = tensors[
                    name
                ].clone()
            case 3:
                tensors[name] = tensors[name].to(random.choice(DTYPES))
            case 4:
                tensors[name] = shape_of(random, tensors[name])
            case _:
                tensors[name] = fill_of(random, tensors[name])
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def shape_of(random: Random, tensor: Tensor) -> Tensor:
    """The same numbers, or some of them, in another shape."""
    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor[:0] if tensor.dim() else tensor[None][:0],
        lambda: tensor[1:] if tensor.dim() else tensor[None],
        lambda: tensor[..., :-1] if tensor.dim() else tensor,
        lambda: tensor.transpose(0, -1) if tensor.dim() else tensor,
        lambda: torch.cat([tensor, tensor]) if tensor.dim() else tensor[None],
        lambda: tensor.flatten()[0] if tensor.numel() else tensor,
    )
    return random.choice(ways)().contiguous()


def fill_of(random: Random, tensor: Tensor) -> Tensor:
    """Other numbers, in one place or everywhere."""
    filled = tensor.clone()
    if not filled.numel():
        return filled
    where = filled.view(-1) if random.random() < 0.4 else filled.view(-1)[random.randrange(filled.numel()) :][:1]
    numbers = (0, 1, -1, 2, 1e6, 1e17)
    if filled.is_floating_point():
        numbers += (float("nan"), float("inf"), -float("inf"), 3e38, -1e19, 1e-40, 1e-3)
    elif filled.dtype == torch.int64:
        numbers += (2**62, -(2**63), 10**15, 7)
    number = random.choice(numbers)
    if filled.is_floating_point():
        where.copy_(torch.tensor(float(number), dtype=torch.float64).to(filled.dtype))
    elif filled.dtype == torch.int64:
        where.copy_(torch.tensor(int(number))) if random.random() < 0.5 else where.add_(1)
    else:
        where.fill_(int(bool(number)))
    return filled


def header_of(random: Random, content: bytes) -> bytes:
    """A safetensors file whose header says something else, with its own length right."""
    length = int.from_bytes(content[:8], "little")
    header = value_of(random, json.loads(content[8 : 8 + length]))
    text = json_bytes(random, header)
    if random.random() < 0.2:
        length = random.choice((0, 1, len(text) + 1, 2**63, 2**64 - 1, 10**8))
        return length.to_bytes(8, "little") + text + content[8 + length :]
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
