"""Makes all that is recorded beside this file: `python -m tests.recorded.make`, on a CPU.

It runs the code of the day. What is recorded is of value because it was written by an earlier one, so nothing is made
where something is: to record another day, copy this file and `__init__.py` to a new folder of `tests` and run it there.
"""

from __future__ import annotations

import json
import lzma
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import everclip
from everclip.backbone import Backbone
from everclip.data.drawn import DOMAINS, DrawnImages
from everclip.data.names import DEFAULT_TEMPLATES
from everclip.learner import Learner
from everclip.storage.faults import EXIT_CODE

from .. import tiny
from . import (
    ASKED,
    QUESTIONS,
    RECORDED,
    SETTINGS,
    SIDE,
    TEST,
    TRAIN,
    command,
    figures,
    lay_out_pictures,
    lessons,
    shown,
)

CLASSES = {
    "scenes": ("a beach", "a city at night", "a forest", "a desert with cacti", "snowy hills"),
    "textures": ("honeycomb", "bricks", "wood grain", "marble", "leopard print"),
    "aerial": ("a river", "dense woodland", "farmland", "a coastline"),
}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CUT = {"finetune-cut": ("finetune", 98, (1, 20)), "rail-cut": ("rail", 21, (1, None))}
"""Runs that were killed: method, fault point, and where that was (stages learned, step of the next)."""
EXPECTED = RECORDED / "expected.json"
LEFT_OUT = ("lock", "report.html")
"""The first names a process, the second is large and read by nobody but people."""
LARGE = 100_000
"""Bytes from which on a file is stored compressed: token embeddings are nearly all zero."""


def draw() -> None:
    """A strip of drawings per class, first those to learn from."""
    for name, classes in CLASSES.items():
        domain = DOMAINS[name]
        count = len(domain.class_names)
        parts = [DrawnImages(domain, n, part, 0, SIDE) for part, n in (("train", TRAIN), ("test", TEST))]
        for wanted in classes:
            label = domain.class_names.index(wanted)
            strip = [np.asarray(part.decode(row)) for part in parts for row in range(label, len(part), count)]
            place = RECORDED / "pictures" / name / f"{wanted}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(strip, axis=1)).save(place, optimize=True)


def backbone(folder: Path) -> None:
    """A CLIP with random weights, in half precision; tokens of no prompt here are zero, as in the package's own."""
    weights = tiny.clip_folder(folder, CLIP) / "open_clip_model.safetensors"
    names = [name for domain in DOMAINS.values() for name in domain.class_names]
    texts = [template.format(name) for template in DEFAULT_TEMPLATES for name in (*names, *ASKED)]
    seen = Backbone.load(str(folder)).tokenize(texts).unique()
    tensors = load_file(weights)
    rows = tensors["token_embedding.weight"]
    tensors["token_embedding.weight"] = torch.zeros_like(rows).index_copy(0, seen, rows[seen])
    save_file({name: tensor.half() for name, tensor in tensors.items()}, weights)


def run(method: str, out: str, here: Path, fault: int | None = None) -> None:
    """`everclip run`, killed at a fault point if told."""
    line = command(method, out)
    print("everclip", shlex.join(line), "" if fault is None else f"  # EVERCLIP_FAULT={fault}")
    code = str(Path(everclip.__file__).absolute().parents[1])
    environment = os.environ | {"EVERCLIP_CACHE": str(here / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": code}
    environment |= {} if fault is None else {"EVERCLIP_FAULT": str(fault)}
    done = subprocess.run([sys.executable, "-m", "everclip", *line], cwd=here, env=environment, capture_output=True)
    if done.returncode != (0 if fault is None else EXIT_CODE):
        raise SystemExit(done.stderr.decode())


def state(run: Path) -> dict[str, Any]:
    """Where a run stands."""
    return json.loads((run / "checkpoints/state.json").read_text())["state"]


def record() -> None:
    """Make everything in an empty folder, then keep it here."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        for domain in CLASSES:
            lay_out_pictures(domain, here / "pictures" / domain)
        backbone(here / "clip")
        for method in SETTINGS:
            run(method, method, here)
        for name, (method, fault, wanted) in CUT.items():
            run(method, name, here, fault)
            found = state(here / name)
            if (found["stages_learned"], found["step"]) != wanted:
                raise SystemExit(f"{name} was cut at {found['stages_learned']}, {found['step']}: not {wanted}")
        os.chdir(here)  # what is written names the backbone as it was given
        learner = Learner.create("clip", settings={"random_features": 32}, device="cpu")
        for domain in ("scenes", "textures"):
            learner.learn(domain, lessons(domain))
        learner.save("learner")
        expected = {
            "runs": {name: figures(here / name) for name in SETTINGS},
            "answers": [
                [[answer.label, answer.task, answer.probability] for answer in learner.predict(shown(), **question)]
                for question in QUESTIONS
            ],
        }
        for kept in ("clip", "learner", *SETTINGS, *CUT):
            keep(here / kept, RECORDED / kept)
        EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


def keep(made: Path, out: Path) -> None:
    """Store files as they are, large ones compressed."""
    for file in sorted(path for path in made.rglob("*") if path.is_file() and path.name not in LEFT_OUT):
        place = out / file.relative_to(made)
        place.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        if len(content) < LARGE:
            place.write_bytes(content)
        else:
            place.with_name(f"{place.name}.xz").write_bytes(lzma.compress(content, preset=9))


if __name__ == "__main__":
    if EXPECTED.exists():
        raise SystemExit(f"{RECORDED} holds a recording; make another one in another folder.")
    draw()
    record()
