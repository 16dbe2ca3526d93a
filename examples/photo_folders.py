"""
Folders of photos that arrive one at a time
===========================================

A learner is given one folder after the other. It never sees an earlier folder again, and is not told which of them a
new photo belongs to. Here the photos are drawn, so that the example needs no download; in your own script the folders
are yours, `DIR/CLASS/*.jpg`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib import pyplot as plt

from everclip import Learner
from everclip.data.drawn import DOMAINS, DrawnImages


def photos(domain: str, split: str, per_class: int) -> list:
    """Drawn images and the name of the class that each of them shows."""
    images = DrawnImages(DOMAINS[domain], per_class, split, seed=0)
    return [(images.decode(i), images.domain.class_names[images.labels[i]]) for i in range(len(images))]


# %%
# Two folders, `charts` and `scenes`, with a folder for each class. After each lesson the photos are gone.
learner = Learner.create("embedded")  # any CLIP that open_clip knows: "ViT-B-16/openai", …
for name in ("charts", "scenes"):
    with TemporaryDirectory() as folder:
        for number, (image, label) in enumerate(photos(name, "train", 6)):
            place = Path(folder, label)
            place.mkdir(exist_ok=True)
            image.save(place / f"{number}.png")
        report = learner.learn(name, folder)
    print(f"{name}: {report.images} photos of {len(report.new_classes)} classes learned in {report.seconds:.1f} s")

# %%
# New photos of both. No task is named: the learner finds out, and says how sure it is.
new = photos("charts", "test", 1)[:4] + photos("scenes", "test", 1)[:4]
answers = learner.predict([image for image, _ in new], closed=True)

fig, axes = plt.subplots(2, 4, figsize=(9, 6), layout="constrained")
for ax, (image, truth), answer in zip(axes.flat, new, answers, strict=True):
    ax.imshow(image)
    ax.set_title(f"{answer.label}\n{answer.task}, {answer.probability:.0%}", fontsize=9)
    ax.set_xlabel(truth, fontsize=9)
    ax.set(xticks=[], yticks=[])
fig.suptitle("above: what the learner says; below: what was drawn")
plt.show()

# %%
# Forgetting a task is exact: the learner answers as if it had never seen `charts`.
learner.forget("charts")
print([task.name for task in learner.tasks])
