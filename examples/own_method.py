"""
A method of your own
====================

A method is a class. `everclip.register` makes it known by name, `check_method` holds it to the contract of all methods,
and then it runs like any other. This one trains the vectors of the image tower alone: its biases and layer norms.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib import pyplot as plt

import everclip
from everclip.methods.full_model import FullModel
from everclip.testing import check_method
from everclip.testing.tiny import clip_folder, image_folder


# %%
# `FullModel` brings the loss and a trained copy of the CLIP. What is left to say is which weights are trained.
@everclip.register
class VectorTuning(FullModel):
    """Every vector of the image tower is trained, matrices stay as they were."""

    name = "vector-tuning"
    summary = "finetunes biases and layer norms of the image tower alone"
    defaults = {"lr": 3e-2}

    def __init__(self, backbone, config, features=None):
        super().__init__(backbone, config, features)
        image_tower = {id(weight) for block in self.student.image_blocks for weight in block.parameters()}
        for weight in self.student.parameters():
            weight.requires_grad_(id(weight) in image_tower and weight.ndim == 1)


# %%
# The contract: what it learns can be stored and read back, a run can be interrupted anywhere, and so on.
print(*check_method(VectorTuning), sep="\n")

# %%
# Runs, beside the untouched CLIP: a tiny one with random weights, which has yet to learn what colors are.
SIZES, figures = {"large": 60, "small": 16}, {}
with TemporaryDirectory() as made:
    here = Path(made)
    folders = [image_folder(here / name, ("red", "green", "blue"), test=20, size=SIZES[name]) for name in SIZES]
    values = {"stream": f"folders:{folders[0]},{folders[1]}", "backbone": str(clip_folder(here / "clip")),
              "iterations": 60, "batch": 9, "warmup": 6, "validation": 0, "candidates": "task"}  # fmt: skip
    for method in ("zero-shot", VectorTuning):
        results = everclip.run(everclip.Config.of({"method": method, **values}), here / f"run{len(figures)}")
        figures[results["method"]] = [results["per_dataset"][name]["last"] for name in SIZES]
        print(f"{results['method']}: Transfer {results['transfer']:.1f}, Last {results['last']:.1f}")

fig, ax = plt.subplots(figsize=(6, 3))
for number, (name, last) in enumerate(figures.items()):
    ax.bar([place + 0.35 * number for place in range(2)], last, 0.35, label=name)
ax.set(xticks=[0.17, 1.17], xticklabels=list(SIZES), ylabel="accuracy at the end, %")
ax.legend()
plt.show()
