"""
Learning from stored embeddings
===============================

Methods that learn on top of a frozen CLIP need no image, only its embedding. Where these have been computed before, in
a pipeline or on another machine, a file of them is a data set: the stream `embeddings:A.npz,B.npz`. The files are made
on the spot here.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib import pyplot as plt

import everclip
from everclip.backbone import Backbone
from everclip.data.drawn import DOMAINS, DrawnImages

clip = Backbone.load("embedded")


def embedded(images: DrawnImages) -> np.ndarray:
    """What the CLIP's image tower says of N images: (N, D) float32, not normalized."""
    views = [torch.from_numpy(np.array(clip.view(images.decode(i)))).permute(2, 0, 1) for i in range(len(images))]
    with torch.no_grad():
        return clip.encode_image(clip.pixels(torch.stack(views))).numpy()


# %%
# A file holds the class names, and embeddings and labels of both parts.
folder = TemporaryDirectory()
for name in ("charts", "textures"):
    train, test = (DrawnImages(DOMAINS[name], count, part, 0) for part, count in (("train", 6), ("test", 4)))
    arrays = {"class_names": train.domain.class_names, "templates": train.domain.templates,
              "train_embeddings": embedded(train), "train_labels": train.labels,
              "test_embeddings": embedded(test), "test_labels": test.labels}  # fmt: skip
    np.savez(Path(folder.name, name), **arrays)
    print(f"{name}.npz: {arrays['train_embeddings'].shape} to learn from, {arrays['test_embeddings'].shape} to test")

# %%
# From here on only the files are read. The text tower of the same CLIP still reads the class names, for zero-shot.
stream = "embeddings:" + ",".join(str(Path(folder.name, f"{name}.npz")) for name in ("charts", "textures"))
last = {}
for method in ("zero-shot", "ncm", "lda", "rail"):
    config = everclip.Config.of({"method": method, "stream": stream, "candidates": "seen"})
    results = everclip.run(config, Path(folder.name, method))
    last[method] = results["last"]
    print(f"{method}: {results['last']:.1f} % right among all classes, after both tasks")

fig, ax = plt.subplots(figsize=(6, 2.5))
ax.barh(list(last), list(last.values()))
ax.set_xlabel("accuracy after both tasks, %")
plt.show()
folder.cleanup()
