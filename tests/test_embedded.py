"""The CLIP of the package: small, complete, and the one that was recorded."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file

from everclip.backbone import Backbone

from . import golden_embedded

WEIGHTS = Path(str(files("everclip") / "embedded" / "open_clip_model.safetensors"))


def test_the_weights_are_small_half_precision_and_empty_where_nothing_was_learned() -> None:
    assert WEIGHTS.stat().st_size <= 35e6
    weights = load_file(WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    unused = (weights["token_embedding.weight"] == 0).all(dim=1)
    assert 20_000 < unused.sum() < 25_000


def test_it_answers_as_recorded() -> None:
    golden = golden_embedded.recorded()
    logits = golden_embedded.logits(Backbone.load("embedded"), golden["images"])
    # Logits lie within ±56; processors differ in the order of sums, by far less than this.
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=5e-3)
