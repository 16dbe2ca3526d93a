"""The commands of a learner: learn, predict, show, forget, evaluate, export."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything that imports torch is imported inside the commands: `everclip --help` answers at once.
from everclip.cli.options import DeviceOption, Setting, given, path_argument, path_option
from everclip.errors import EverclipError, InputError
from everclip.registry import entered
from everclip.system.display import Display, on_screen, printed, say, say_json, visible

if TYPE_CHECKING:
    from everclip.data import Found, How, ImageSource
    from everclip.learner import Learner, LearnReport, Prediction

ModelDir = Annotated[Path, path_argument("MODEL_DIR", "The learner's directory; `learn` makes it.")]
HOLDS_IMAGES = "DIR/CLASS/… or DIR/train/CLASS/…; the same as .zip or .tar; .csv, .tsv, .jsonl or .parquet."
Labeled = Annotated[Path, path_argument("FOLDER", HOLDS_IMAGES)]
PathColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of paths or images.")]
LabelColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of classes.")]
PartColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of train, valid, test.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
LabelsOption = Annotated[str | None, typer.Option("--labels", metavar="A,B,…", help="What else it may be.")]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="A", help="The same, one by one: for labels with a comma; repeatable."),
]
OnlyOption = Annotated[bool, typer.Option("--only", help="It is one of --labels and --label.")]
MegapixelsOption = Annotated[
    float | None,
    typer.Option(metavar="N", help="Skip images of more, 100 by default; of JPEGs, which are halved, of 4 N."),
]
ClosedOption = Annotated[bool, typer.Option("--closed", help="It is something learned, whatever it looks like.")]


def learn(
    model_dir: ModelDir,
    folder: Annotated[Path | None, path_argument("FOLDER", HOLDS_IMAGES)] = None,
    tasks: Annotated[
        Path | None, path_option("In place of FOLDER: a folder of tasks, TASKS/TASK/CLASS/…, each with its name.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the task; by default that of the folder.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The first time: embedded · ARCH/TAG · ARCH/FILE · hf-hub:ORG/NAME · a folder.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The first time: one that can forget, or package.module:Class.")
    ] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    part_column: PartColumn = None,
    max_megapixels: MegapixelsOption = None,
    device: DeviceOption = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Learn a folder of images, as a new task or as more of a known one; the images are not needed afterwards."""
    from everclip.data import How
    from everclip.learner import Learner, LearnerDirectory

    chosen = {"backbone": backbone, "method": method}
    values = entered(given({key: value for key, value in chosen.items() if value is not None}, settings or []))
    how = How(path_column=path_column, label_column=label_column, part_column=part_column)
    lessons = _lessons(folder, tasks, name, how)
    display, device = Display(), device or "auto"
    directory = LearnerDirectory(model_dir)
    if not directory.exists():
        directory.refuse_foreign_files()
        directory.require_writable()
        learner = Learner.create(**_first(values), device=device, display=display)
        report = _learned(learner, *lessons.pop(0), max_megapixels, display, as_json)
        learner.save(model_dir, replace=False)
        _tell(report, display, as_json)
    if lessons:
        with directory:
            learner = Learner.load(model_dir, device=device, display=display)
            _refuse_changes(learner, values, directory.path)
            for task, found in lessons:
                report = _learned(learner, task, found, max_megapixels, display, as_json)
                learner.save_in(directory)  # what is learned stays, whatever becomes of the next task
                _tell(report, display, as_json)


def predict(
    model_dir: ModelDir,
    images: Annotated[list[Path], path_argument("IMAGE…", "Files; folders, archives and tables of them.")],
    labels: LabelsOption = None,
    label: LabelOption = None,
    only: OnlyOption = False,
    closed: ClosedOption = False,
    path_column: PathColumn = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates to name.")] = 5,
    max_megapixels: MegapixelsOption = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, a line per image.")] = False,
) -> None:
    """Say what is on images. A file that can't be read is named and skipped; the exit status is then 1."""
    from everclip.data import BadImage, How
    from everclip.learner import Learner

    display = Display()
    shown_images = _images(images, How(path_column=path_column), display)
    learner = Learner.load(model_dir, device=device or "auto", display=display)
    bad = 0
    # A bar between lines on one screen would only be in their way.
    shown = contextlib.nullcontext(lambda done, total: None) if on_screen() else display.bar("predicting")
    answers = learner.predict_files(
        shown_images, _labels(labels, label), only=only, closed=closed, top_k=top_k, max_megapixels=max_megapixels
    )
    with shown as bar:
        for done, (path, answer) in enumerate(answers, 1):
            bar(done, len(shown_images))
            if isinstance(answer, BadImage):
                bad += 1
                display.note(f"everclip: {visible(str(answer))}")
            if as_json:
                content = {"error": answer.reason} if isinstance(answer, BadImage) else _said(answer)
                say_json({"path": path, **content})
            elif not isinstance(answer, BadImage):
                say(visible(f"{path}: {', '.join(_named(*candidate) for candidate in answer.top)}"))
    if bad:
        raise EverclipError(f"{bad} of {len(shown_images)} files can't be used; the others are answered.")


def _named(label: str | None, probability: float, task: str) -> str:
    return f"{label} {probability:.1%} ({task})" if label is not None else f"nothing learned {probability:.1%}"


def show(model_dir: ModelDir, as_json: AsJson = False) -> None:
    """Say what a learner knows, and how well it knew it after every lesson."""
    from rich.markup import escape
    from rich.table import Table

    from everclip.learner import LearnerDirectory
    from everclip.learner.card import accuracy_rows, summary

    known = summary(LearnerDirectory(model_dir).peek())
    if as_json:
        say_json(known, indent=1)
        return
    say(f"method {known['method']} on backbone {known['backbone']}")
    tasks = Table("task", "classes", "images", "lessons", box=None)
    for task in known["tasks"]:
        tasks.add_row(
            escape(task["name"]), *(str(n) for n in (len(task["classes"]), task["images"], task["increments"]))
        )
    printed(tasks)
    if known["accuracy"]:
        matrix = Table(
            "% right on held-out images, after", *(escape(task["name"]) for task in known["tasks"]), box=None
        )
        for row in accuracy_rows(known):
            matrix.add_row(*map(escape, row))
        printed(matrix)


def forget(
    model_dir: ModelDir,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the task; see `everclip show`.")],
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Forget a task: exactly, or for moe-adapters its route and its classes."""
    from everclip.learner import Learner

    with Learner.edit(model_dir, device or "auto") as learner:
        report = learner.forget(name)
    if as_json:
        say_json(asdict(report))
    else:
        say(f"forgot {report.task} ({len(report.class_names)} classes): {report.note}")


def evaluate(
    model_dir: ModelDir,
    folder: Labeled,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    part_column: PartColumn = None,
    max_megapixels: MegapixelsOption = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Count how many images of a labeled folder are answered right, with all learned classes as possible answers."""
    from rich.markup import escape
    from rich.table import Table

    from everclip.data import How, read
    from everclip.learner import Learner

    display = Display()
    labeled = read(folder, How(path_column=path_column, label_column=label_column, part_column=part_column))
    learner = Learner.load(model_dir, device=device or "auto", display=display)
    found = learner.evaluate(labeled, max_megapixels=max_megapixels)
    for name, reason in found.skipped:
        display.note(visible(f"skipped {name}: {reason}"))
    if found.said and not as_json:
        display.note(visible(f"{folder}: {found.said}"))
    if as_json:
        say_json(asdict(found), indent=1)
        return
    low, high = found.interval
    say(f"{found.accuracy:.1f} % of {found.images} images right (95 % interval {low:.1f} to {high:.1f})")
    table = Table("class", "right", "images", "%", box=None)
    for name, (right, images) in found.per_class.items():
        table.add_row(escape(name), str(right), str(images), f"{100 * right / images:.1f}")
    printed(table)


def export(
    model_dir: ModelDir,
    file: Annotated[Path, path_argument("FILE.onnx", "What to write.")],
    labels: LabelsOption = None,
    label: LabelOption = None,
    only: OnlyOption = False,
    closed: ClosedOption = False,
    compare_on: Annotated[
        list[Path] | None,
        path_option("An image, or a folder of them, on which the graph must answer alike.", "IMAGE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the answers as an ONNX graph: pixels in, probabilities of all learned classes (and --labels) out."""
    from everclip.data import How
    from everclip.learner import Learner

    learner = Learner.load(model_dir, device="cpu")
    compared = _images(compare_on, How(), Display()) if compare_on else ()
    report = learner.export(file, _labels(labels, label), only=only, closed=closed, compare_on=compared)
    if as_json:
        say_json(asdict(report), indent=1)
        return
    columns = len(report.columns) + report.open
    say(
        f"{report.path}: {report.bytes / 1e6:.1f} MB, {columns} columns; on {report.compared} images onnxruntime and "
        f"the learner differ by {report.difference:.1g} at most"
    )


def _labels(text: str | None, whole: list[str] | None) -> list[str] | None:
    """The labels of `--labels A,B` and of every `--label A`."""
    return [*(label.strip() for label in (text or "").split(",") if label.strip()), *(whole or ())] or None


def _lessons(folder: Path | None, tasks: Path | None, name: str | None, how: How) -> list[tuple[str, Found]]:
    """What is to be learned: (task, images), read before anything is learned."""
    from everclip.data import read, read_tasks

    if (folder is None) == (tasks is None):
        raise InputError("learn wants a FOLDER, or --tasks with a folder of tasks: give one of them.")
    if tasks is None:
        found = read(folder, how)
        return [(name or found.name, found)]
    if name is not None:
        raise InputError("--name names one task, but --tasks names each by its folder; leave one of them out.")
    return [(found.name, found) for found in read_tasks(tasks, how)]


def _learned(
    learner: Learner, task: str, found: Found, max_megapixels: float | None, display: Display, as_json: bool
) -> LearnReport:
    """Learn, after saying what."""
    from everclip.data import brief
    from everclip.learner.questions import checked_task_name

    task = checked_task_name(task)  # what is refused is refused before anything is said
    if not as_json:
        display.note(visible(brief(found)))
    return learner.learn(task, found, max_megapixels=max_megapixels)


def _first(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as `Learner.create` takes them."""
    own: dict[str, Any] = {name: values[name] for name in ("backbone", "method", "precision") if name in values}
    return {**own, "settings": {name: value for name, value in values.items() if name not in own}}


def _refuse_changes(learner: Learner, values: dict[str, Any], path: Path) -> None:
    before = learner.config.flat()
    for name, value in values.items():
        if name not in before:
            raise InputError(f"'{name}' is no setting of the learner in {path}; leave it out.")
        if before[name] != value:
            raise InputError(
                f"{path} was made with {name}={before[name]}, not {value}; leave it out, or choose another folder."
            )


def _tell(report: LearnReport, display: Display, as_json: bool) -> None:
    if as_json:
        say_json(asdict(report))
        return
    for name, reason in report.skipped:
        display.note(visible(f"skipped {name}: {reason}"))
    new, known = len(report.new_classes), len(report.known_classes)
    say(
        f"learned {report.task}: {report.images} images ({report.held_out} of them held out), {new} new and {known} "
        f"known classes, in {report.seconds:.1f} s"
    )
    if report.watched:
        say(f"{report.moved} of {report.watched} images held out of earlier lessons are now of another task")


def _said(answer: Prediction) -> dict[str, Any]:
    top = [{"label": label, "probability": p, "task": task} for label, p, task in answer.top]
    return {**asdict(answer), "top": top}


def _images(paths: list[Path], how: How, display: Display) -> ImageSource:
    """Files as they are, and all images of folders, archives and tables; what else lies there is told."""
    from everclip.data import GivenImages, Joined, holds_images, left_out_of, read_images

    parts: list[ImageSource] = []
    for path in paths:
        if holds_images(path):
            images, left_out = read_images(path, how)
            parts.append(images)
            if left_out:
                display.note(visible(f"{path}: {left_out_of(left_out)}"))
        else:
            parts.append(GivenImages([str(path)]))
    return Joined(parts)
