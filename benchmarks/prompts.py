"""What class prompts cost a finetune step: read token by token, against `encode_alike`, which reads little twice.

Both encode the class names of a published data set (one whose names come with the package) under its first template,
forward and backward, in turns in one process; the images of a step are timed beside them. Read the ratios; the times
are for this machine in this minute.

    python benchmarks/prompts.py --backbone embedded --data flowers102
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from everclip.backbone import Backbone
from everclip.backbone.prompts import class_tokens
from everclip.data.published import PUBLISHED
from everclip.layers.context import encode_alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--data", default=["eurosat", "caltech101", "flowers102"], nargs="+")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()

    backbone = Backbone.load(options.backbone, options.device, options.precision).requires_grad_(True)
    pixels = torch.randn(options.batch, 3, backbone.view.size, backbone.view.size, device=backbone.device)

    def once(encode: Callable[[], torch.Tensor]) -> float:
        backbone.zero_grad()
        start = time.perf_counter()
        encode().square().sum().backward()
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    print(
        f"{options.backbone}, {options.precision} on {backbone.device.type}, {options.batch} images, "
        f"{torch.get_num_threads()} threads"
    )
    for name in options.data:
        published = PUBLISHED[name]
        tokens = class_tokens(backbone, published.class_names, published.templates[:1])[:, 0]
        work: dict[str, Callable[[], torch.Tensor]] = {
            "images": lambda: backbone.encode_image(pixels),
            "in full": lambda tokens=tokens: backbone.encode_text(tokens),
            "alike": lambda tokens=tokens: encode_alike(backbone, tokens),
        }
        # the first round warms up
        rounds = [{part: once(encode) for part, encode in work.items()} for _ in range(options.rounds + 1)][1:]
        images, full, alike = (1e3 * statistics.median(turn[part] for turn in rounds) for part in work)
        saved = statistics.median((r["images"] + r["alike"]) / (r["images"] + r["in full"]) for r in rounds)
        print(
            f"{name:14} {len(tokens):4} prompts: images {images:7.1f} ms, prompts in full {full:7.1f} ms, alike "
            f"{alike:7.1f} ms; all of it x{saved:.2f}"
        )


if __name__ == "__main__":
    main()
