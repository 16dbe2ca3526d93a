"""Throw damaged and hostile files at everything that reads one: what is wrong must end in one sentence.

    python tools/fuzz.py --count 1000000 --seed 7
    python tools/fuzz.py --kind learner.json --kind dataset.json --count 5000

A learner's digests fit whatever is in it, as those of somebody do who means harm. An exception that is not EverCLIP's
own, a sentence of several lines, or a file that takes 10 seconds of the processor is a find: its files, and what
was raised, are kept below `--keep`. The same kind, seed and number make the same input again (`--first`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import lzma
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.cli.options import given
from everclip.data import read_embeddings, read_folder, read_texts
from everclip.data.published.splits import SPLIT_FILE, read_coop, read_split, write_split
from everclip.errors import EverclipError
from everclip.experiment.config import Config
from everclip.experiment.learned import stored_config
from everclip.experiment.outcomes import unpack
from everclip.experiment.recipes import read_recipe
from everclip.learner import Learner, LearnerDirectory
from everclip.learner.card import card, summary
from everclip.learner.storing import restored, settings
from everclip.methods import load_checked, method_class
from everclip.report import compare, load_run, read_losses, render
from everclip.report.cost import cost
from everclip.storage.directory import body_digest
from everclip.storage.identity import Identity
from everclip.storage.lock import OWNER, TakenError
from everclip.storage.reading import Malformed
from everclip.storage.run import RunDirectory
from everclip.storage.stated import check_stream, needed_by
from everclip.streams import TaskInfo
from everclip.testing.tiny import clip_folder, image_folder
from mutations import bytes_of, json_bytes, tensors_of, value_of, whole

RECORDED = Path(__file__).parents[1] / "tests/recorded"
SLOW = 10.0
"""Seconds of the processor; nothing here holds more than a few kilobytes."""
SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
"""A CLIP that answers in a few milliseconds."""

Files = dict[str, bytes]


@dataclass
class Kind:
    """A kind of file.

    Attributes:
        files: an intact example, by path below a folder.
        change: an example changed.
        use: reads from the folder, as the program does, and does with it what the program does.
    """

    files: Files
    change: Callable[[Random, Files], Files]
    use: Callable[[Path, Random], object]


@dataclass
class Found:
    """What came of the inputs."""

    accepted: int = 0
    refused: int = 0
    finds: list[str] = field(default_factory=list)
    slowest: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


# -- the run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        files: it.
        refused: what was raised of EverCLIP's own, by its class; empty where it was accepted.
        wrong: what should not be; empty where all is well.
        seconds: of the processor.
    """

    files: Files
    refused: str
    wrong: str
    seconds: float


def tried(kind: Kind, random: Random, folder: Path) -> Outcome:
    """Change the example and let the program read it."""
    begun, refused, wrong = time.process_time(), "", ""
    with quiet():
        files = kind.change(random, dict(kind.files))
    lay(folder, files)
    try:
        with quiet():
            kind.use(folder, random)
    except (EverclipError, TakenError) as error:
        refused = type(error).__name__
        if "\n" in str(error) or not str(error):
            wrong = f"not one sentence: {error!r}"
    except Exception:
        wrong = traceback.format_exc()
    seconds = time.process_time() - begun
    if seconds > SLOW:
        wrong = wrong or f"took {seconds:.1f} s"
    return Outcome(files, refused, wrong, seconds)


def attempt(kind: Kind, name: str, seed: int, number: int, folder: Path, found: Found, keep: Path | None) -> None:
    """One input, made from `name`, `seed` and `number` alone."""
    came = tried(kind, Random(f"{name} {seed} {number}"), folder)
    found.slowest = max(found.slowest, came.seconds)
    if came.wrong:
        found.finds.append(f"{name} --seed {seed} --first {number}: {came.wrong.strip().splitlines()[-1]}")
        if keep is not None:
            place = keep / f"{name.replace('/', '-')}-{seed}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            lay(place, came.files)
            (place / "raised.txt").write_text(came.wrong, encoding="utf-8", errors="backslashreplace")
    elif came.refused:
        found.refused += 1
        found.reasons[came.refused] += 1
    else:
        found.accepted += 1


def intact(kind: Kind, name: str, folder: Path) -> None:
    """The example itself is accepted; else every refusal that follows says nothing."""
    lay(folder, kind.files)
    with contextlib.suppress(TakenError):
        kind.use(folder, Random(name))


def lay(folder: Path, files: Files) -> None:
    """Have exactly these files in a folder; those that are there already are left alone."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def fuzz(
    kinds: Mapping[str, Kind], count: int, seed: int, keep: Path | None = None, first: int = 0
) -> dict[str, Found]:
    """`count` inputs, shared out among the kinds."""
    found = {name: Found() for name in kinds}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as root, quiet():
        folders = {name: Path(root) / str(place) for place, name in enumerate(kinds)}
        for number in range(first, first + -(-count // len(kinds))):
            for name, kind in kinds.items():
                if number == first:
                    folders[name].mkdir()
                    intact(kind, name, folders[name])
                attempt(kind, name, seed, number, folders[name], found[name], keep)
    return found


@contextlib.contextmanager
def quiet() -> Any:
    """Without what numpy and torch have to say about strange numbers."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


# -- how files are changed ---------------------------------------------------------------------------------------------


def damaged(name: str) -> Callable[[Random, Files], Files]:
    """Bytes of one file changed, or the file gone or something else."""

    def change(random: Random, files: Files) -> Files:
        if random.random() < 0.02:
            del files[name]
        else:
            files[name] = whole(random) if random.random() < 0.05 else bytes_of(random, files[name])
        return files

    return change


def restructured(name: str) -> Callable[[Random, Files], Files]:
    """Values of one JSON file changed, or its bytes."""

    def change(random: Random, files: Files) -> Files:
        if random.random() < 0.3:
            return damaged(name)(random, files)
        files[name] = json_bytes(random, value_of(random, json.loads(files[name])))
        return files

    return change


def signed(name: str) -> Callable[[Random, Files], Files]:
    """The same of a state, with a SHA-256 that fits."""

    def change(random: Random, files: Files) -> Files:
        if random.random() < 0.2:
            return restructured(name)(random, files)
        body = value_of(random, json.loads(files[name])["state"])
        files[name] = seal(random, body)
        return files

    return change


def seal(random: Random, body: Any) -> bytes:
    """A state with its SHA-256."""
    content = json_bytes(random, {"sha256": "", "state": body})
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(content)["state"]
        content = json_bytes(random, {"sha256": body_digest(body), "state": body})
    return content


def tensors_of_a_learner(random: Random, files: Files) -> Files:
    """Tensors of one part changed, the file named by its content and the state by its own."""
    state = json.loads(files["learner.json"])["state"]
    for part in random.sample(sorted(state["files"]), random.choice((1, 1, 2)) if len(state["files"]) > 1 else 1):
        entry = state["files"][part]
        content = files.pop(entry["name"], None)
        if content is None:
            continue
        content = tensors_of(random, content)
        digest = hashlib.sha256(content).hexdigest()
        state["files"][part] = {"name": f"{part.partition('-')[0]}-{digest[:16]}.safetensors", "sha256": digest}
        files[state["files"][part]["name"]] = content
    files["learner.json"] = seal(random, state)
    return files


def tensors_of_a_run(random: Random, files: Files) -> Files:
    """The same of a run."""
    state = json.loads(files["checkpoints/state.json"])["state"]
    name = random.choice(sorted(state["files"]))
    files[name] = tensors_of(random, files[name])
    state["files"][name] = hashlib.sha256(files[name]).hexdigest()
    files["checkpoints/state.json"] = seal(random, state)
    return files


TEXTS = (
    *("2024-01-01", "12:30", "!!python/name:os.system", "&x [*x]", "*x", "!!binary aGk=", "0x" + "f" * 5000),
    *("9" * 5000, ".nan", ".inf", "-.INF", "1e999", "0b_", "0o9", "? [a]", "[" * 5000, "{a: " * 50, "|", ">-", "'"),
    *("<<: {a: 1}", "~", "null", "true", "yes", "[1, 2", "{a: 1, a: 2}", "\x00", "\t", "--- 1\n--- 2", "-1"),
    *("a: b: c", "!", "! x", "=", "\ud800", "x" * 100_000, "1" * 50, "1.0e+999", "+.", "._", "0x_", "\x85", "@"),
    *('"\\u12"', "%YAML 1.1", "\u2028", "`", "a\nb"),
)  # fmt: skip
"""What somebody may write for a value."""


def rewritten(name: str) -> Callable[[Random, Files], Files]:
    """Values of a YAML file changed, or its text."""

    def change(random: Random, files: Files) -> Files:
        dice = random.random()
        if dice < 0.3:
            return damaged(name)(random, files)
        if dice < 0.6:
            lines = files[name].decode().splitlines()
            place = random.randrange(len(lines))
            lines[place] = f"{lines[place].partition(':')[0]}: {random.choice(TEXTS)}"
            files[name] = "\n".join(lines).encode("utf-8", "surrogatepass")
            return files
        values = value_of(random, yaml.safe_load(files[name]))
        files[name] = json_bytes(random, values)  # which YAML reads as well
        return files

    return change


def arrays_of(random: Random, files: Files) -> Files:
    """Arrays of an archive changed, its headers, or its bytes."""
    (name,) = files
    dice = random.random()
    if dice < 0.35:
        return damaged(name)(random, files)
    with np.load(io.BytesIO(files[name])) as archive:
        arrays = {key: archive[key] for key in archive.files}
    key = random.choice(sorted(arrays))
    array = arrays[key]
    if dice < 0.6:
        members = {}
        for each, value in arrays.items():
            content = io.BytesIO()
            np.save(content, value)
            members[f"{each}.npy"] = bytes_of(random, content.getvalue()) if each == key else content.getvalue()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for each, value in members.items():
                archive.writestr(each, value)
            if random.random() < 0.1:
                archive.writestr(f"{key}.npy", b"")
        files[name] = packed.getvalue()
        return files
    ways: tuple[Callable[[], Any], ...] = (
        lambda: array[:-1],
        lambda: array[:0],
        lambda: array[None],
        lambda: array.ravel(),
        lambda: array.astype(object),
        lambda: array.astype("S3" if array.dtype.kind == "U" else random.choice(("f2", "f8", "c8", "i1", "u8", "?"))),
        lambda: array.astype("M8[s]") if array.dtype.kind == "i" else array,
        lambda: np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        lambda: np.array(7),
        lambda: np.full(array.shape, random.choice((np.nan, np.inf, 1e300, -1.0, 2.0**40))),
        lambda: array - 1 if array.dtype.kind == "i" else array,
        lambda: np.array([str(each) * 3 for each in array]),
        lambda: np.array(["", "\ud800"][: random.randrange(3)]),
        lambda: np.frombuffer(b"\xff" * 12, dtype="<U3"),
    )  # fmt: skip
    arrays[random.choice((key, key, key, "labels", "extra"))] = random.choice(ways)()
    if random.random() < 0.2:
        arrays.pop(random.choice(sorted(arrays)))
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    files[name] = packed.getvalue()
    return files


# -- kinds -------------------------------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "rail": {"random_features": 8},
    "rail-dual": {},
    "ranpac": {"random_features": 8},
    "lda": {},
    "ncm": {},
    "zero-shot": {},
    "moe-adapters": {"selector": "gaussian"},
    "moe-adapters+prototype": {"selector": "prototype"},
    "moe-adapters+ddas": {"selector": "ddas", "ddas_iterations": 2},
}
QUICK = {"iterations": 2, "batch": 4, "warmup": 0, "bottleneck": 2}


class Kinds(Mapping[str, Kind]):
    """Every kind by name, made when it is asked for; all share one small CLIP.

    Args:
        root: a folder for what the examples are made of.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Kind] = {}
        self._features: dict[Path, FrozenFeatures] = {}
        self._ways: dict[str, Callable[[], Kind]] = {
            "lock.owner": self._owner,
            "--set": self._set,
            "recipe": self._recipe,
            "config.yaml": self._config,
            "dataset.json": self._card,
            "embeddings.npz": self._embeddings,
            "texts.txt": self._texts,
            "events.jsonl": self._events,
            "results.json": self._results,
            "split.json": self._split,
            "coop.json": self._coop,
            "state.json": partial(self._run, signed("checkpoints/state.json"), "rail"),
        }
        for method in ("rail", "moe-adapters"):
            self._ways[f"run/{method}"] = partial(self._run, tensors_of_a_run, method)
        for method in METHODS:
            self._ways[f"learner.json/{method}"] = partial(self._learner, method, signed("learner.json"))
            self._ways[f"learner/{method}"] = partial(self._learner, method, tensors_of_a_learner)

    def __getitem__(self, name: str) -> Kind:
        if name not in self._made:
            self._made[name] = self._ways[name]()
        return self._made[name]

    def __iter__(self) -> Any:
        return iter(self._ways)

    def __len__(self) -> int:
        return len(self._ways)

    def _clip(self, folder: Path) -> FrozenFeatures:
        if folder not in self._features:
            if not folder.exists():
                clip_folder(folder, SMALL)
            self._features[folder] = FrozenFeatures(Backbone.load(str(folder), torch.device("cpu")))
        return self._features[folder]

    # -- learners and runs

    def _learner(self, method: str, change: Callable[[Random, Files], Files]) -> Kind:
        clip, saved = self._root / "clip", self._root / method
        features = self._clip(clip)
        if not saved.exists():
            name = method.partition("+")[0]
            learner = Learner.create(
                str(clip), name, (QUICK if name == "moe-adapters" else {}) | METHODS[method], "cpu"
            )
            for number, classes in enumerate((("red", "green"), ("blue", "gray"))):
                draw = np.random.default_rng(number)
                images = [(draw.integers(0, 255, (16, 16, 3), np.uint8), each) for each in classes for _ in range(12)]
                learner.learn(f"task {number}", images)
            learner.save(saved)
        draw = torch.Generator().manual_seed(0)
        views = torch.randint(0, 255, (2, 3, 16, 16), generator=draw, dtype=torch.uint8)
        seen = features.backbone.encode_image(features.backbone.pixels(views)).detach()

        def use(folder: Path, random: Random) -> None:
            directory = LearnerDirectory(folder)
            card(summary(directory.peek()))
            kept = directory.load()
            knowledge = restored(kept, settings(kept, None, directory), features, directory)
            for asked in (knowledge.question([]) if knowledge.increments else None, knowledge.question(["a house"])):
                if asked is not None:
                    p = knowledge.posterior(asked, seen, views)
                    assert torch.isfinite(p).all()
                    assert float((p.sum(dim=1) - 1).abs().max()) < 1e-3
            if random.random() < 0.1 and knowledge.increments:
                knowledge.without(knowledge.increments[0].task)

        return Kind(files_of(saved), change, use)

    def _run(self, change: Callable[[Random, Files], Files], method: str) -> Kind:
        clip = self._root / "recorded"
        if not clip.exists():
            clip.mkdir()
            for file in (RECORDED / "clip").iterdir():
                content = file.read_bytes()
                name, content = (file.stem, lzma.decompress(content)) if file.suffix == ".xz" else (file.name, content)
                (clip / name).write_bytes(content)
        features = self._clip(clip)
        body = json.loads((RECORDED / method / "checkpoints/state.json").read_text())["state"]
        names = (
            ("a beach", "a city at night", "a desert with cacti", "a forest", "snowy hills"),
            ("bricks", "honeycomb", "leopard print", "marble", "wood grain"),
        )
        infos = [TaskInfo(index, f"task {index}", each, ("a photo of a {}.",)) for index, each in enumerate(names)]

        def use(folder: Path, random: Random) -> None:
            directory = RunDirectory(folder)
            config = stored_config(directory)
            state = directory.load_state(method, Identity(body["backbone"]), Identity(body["data"]), Identity(""))
            if state is None:
                return
            try:
                check_stream(state, [1, 1])
            except Malformed as error:
                raise directory.damaged(directory.state, error) from error
            restored_method = method_class(method)(features.backbone, config.settings, features)
            sealed = [directory.read_tensors(name) for name in state.sealed]
            learned = infos[: state.stages_learned]
            with needed_by(method, directory, state):
                load_checked(restored_method, learned, sealed, directory.read_tensors(state.working))
            for name in state.rows:
                with needed_by("the evaluation", directory, state, name):
                    unpack(directory.read_tensors(name), [50, 50])

        return Kind(files_of(RECORDED / method), change, use)

    # -- what people write

    def _set(self) -> Kind:
        def change(random: Random, files: Files) -> Files:
            key = random.choice(
                ("lr", "iterations", "stream", "selector", "method", "seed", "clip_norm", "x", "", "epochs")
            )
            value = (
                random.choice(TEXTS)
                if random.random() < 0.5
                else json_bytes(random, value_of(random, [1, "a", {"b": 2}])).decode("utf-8", "surrogatepass")
            )
            return {"setting": f"{key}={value}".encode("utf-8", "surrogatepass")}

        def use(folder: Path, random: Random) -> None:
            text = (folder / "setting").read_bytes().decode("utf-8", "surrogatepass")
            Config.of({"method": "finetune", "stream": "drawn"} | given({}, [text]))

        return Kind({"setting": b"lr=1"}, change, use)

    def _recipe(self) -> Kind:
        content = (
            "method: lwf\nstream: drawn\nlr: 1.0e-3\niterations: 5\nseed: 3\nselector: gaussian\nbackbone: embedded\n"
            "optimizer: sgd\nepochs: null\nmethods:\n  lwf: &a {kd_temperature: 2}\n  wc: {<<: *a, consolidation: 1}\n"
        )
        use = lambda folder, random: Config.of(read_recipe(str(folder / "mine.yaml")))  # noqa: E731
        return Kind({"mine.yaml": content.encode()}, rewritten("mine.yaml"), use)

    def _config(self) -> Kind:
        files = {"config.yaml": (RECORDED / "moe-adapters/config.yaml").read_bytes()}
        ours = Config.of(yaml.safe_load(files["config.yaml"]))

        def use(folder: Path, random: Random) -> None:
            directory = RunDirectory(folder)
            list(ours.differing(directory.read_config()))
            stored_config(directory)

        return Kind(files, rewritten("config.yaml"), use)

    def _card(self) -> Kind:
        content = {
            "name": "pets",
            "classes": ["a", "b"],
            "class_names": {"a": "cat", "b": "dog"},
            "templates": ["a {}."],
        }
        files = {f"{name}/{number}.png": b"" for name in "ab" for number in range(3)}
        use = lambda folder, random: read_folder(folder)  # noqa: E731
        return Kind({**files, "dataset.json": json.dumps(content).encode()}, restructured("dataset.json"), use)

    def _embeddings(self) -> Kind:
        draw, packed = np.random.default_rng(0), io.BytesIO()
        np.savez(
            packed,
            embeddings=draw.normal(size=(12, 4)).astype("f4"),
            labels=np.arange(12) % 3,
            class_names=np.array(["a", "b", "c"]),
            templates=np.array(["a {}."]),
        )
        use = lambda folder, random: read_embeddings(folder / "pets.npz")  # noqa: E731
        return Kind({"pets.npz": packed.getvalue()}, arrays_of, use)

    def _texts(self) -> Kind:
        use = lambda folder, random: read_texts(folder / "texts.txt")  # noqa: E731
        return Kind({"texts.txt": "one\nzwölf\n".encode()}, damaged("texts.txt"), use)

    def _split(self) -> Kind:
        folder = image_folder(self._root / "split", ["red", "green"])
        write_split(folder, read_folder(folder).train)
        files = {name: content for name, content in files_of(folder).items() if name == SPLIT_FILE or "train" in name}

        def use(place: Path, random: Random) -> None:
            read_split(place, read_folder(place, test_fraction=0).train)

        source = files_of(folder)
        kept = {name: b"" if name != SPLIT_FILE else content for name, content in source.items() if name in files}
        return Kind(kept, restructured(SPLIT_FILE), use)

    def _coop(self) -> Kind:
        content = {part: [["a/1.jpg", 0, "cat"], ["b/2.jpg", 1, "dog"]] for part in ("train", "val", "test")}
        use = lambda folder, random: read_coop(folder / "split.json", folder)  # noqa: E731
        return Kind({"split.json": json.dumps(content).encode()}, restructured("split.json"), use)

    def _owner(self) -> Kind:
        content = json.dumps({"process": os.getpid(), "host": "here", "begun": "1", "place": "there"}).encode()

        def use(folder: Path, random: Random) -> None:
            from everclip.storage.lock import _remove_dead_owner  # what a lock does where the kernel has none

            _remove_dead_owner(folder / OWNER)

        return Kind({OWNER: content}, restructured(OWNER), use)

    # -- what a run says

    def _events(self) -> Kind:
        lines = [
            {"time": 1.0, "event": "start", "resumed": False},
            *({"event": "step", "stage": 0, "step": step, "loss": 1.5, "parts": {"ce": 1.5}} for step in (1, 2)),
            {"event": "learned", "stage": 0, "tasks": ["a"], "seconds": 3.0},
        ]
        results = json.loads((RECORDED / "rail/results.json").read_text())

        def change(random: Random, files: Files) -> Files:
            if random.random() < 0.3:
                return damaged("events.jsonl")(random, files)
            changed = [json_bytes(random, value_of(random, line)).replace(b"\n", b"") for line in lines]
            return {"events.jsonl": b"\n".join(changed)}

        def use(folder: Path, random: Random) -> None:
            read_losses(folder, [["a"], ["b"]])
            cost([(folder, results)])

        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return Kind({"events.jsonl": content}, change, use)

    def _results(self) -> Kind:
        def use(folder: Path, random: Random) -> None:
            results = load_run(folder)
            comparison = compare([folder])
            list(csv.reader(io.StringIO(comparison.csv())))
            comparison.latex()
            if random.random() < 0.02:  # figures take a second
                render(results)

        content = (RECORDED / "moe-adapters/results.json").read_bytes()
        return Kind({"results.json": content}, restructured("results.json"), use)


def files_of(folder: Path) -> Files:
    """All files of a folder by their paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- the command -------------------------------------------------------------------------------------------------------


def main(
    kind: Annotated[list[str] | None, typer.Option(help="Names of kinds, or how they begin; all by default.")] = None,
    count: Annotated[int, typer.Option(help="Inputs in all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first input of each kind.")] = 0,
    keep: Annotated[Path, typer.Option(help="Where the finds are kept.")] = Path("fuzz-finds"),
) -> None:
    """Count what was accepted, what was refused in a sentence, and what else came."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        every = Kinds(Path(root))
        chosen = [name for name in every if not kind or any(name.startswith(each) for each in kind)]
        if not chosen:
            raise SystemExit(f"there is no such kind; choose from {', '.join(every)}.")
        with quiet():
            kinds = {name: every[name] for name in chosen}
        begun = time.perf_counter()
        found = fuzz(kinds, count, seed, keep, first)
    total = Found()
    for name, each in found.items():
        counts = f"{each.accepted:8,} accepted {each.refused:9,} refused {len(each.finds):5,} finds"
        print(f"{name:34} {counts}   slowest {each.slowest:.2f} s")
        total.accepted += each.accepted
        total.refused += each.refused
        total.finds += each.finds
    for line in total.finds[:50]:
        print(line)
    seconds = time.perf_counter() - begun
    inputs = total.accepted + total.refused + len(total.finds)
    counts = f"{total.accepted:,} accepted, {total.refused:,} refused, {len(total.finds):,} finds"
    print(f"{inputs:,} inputs in {seconds:.0f} s: {counts}.")
    sys.exit(bool(total.finds))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
