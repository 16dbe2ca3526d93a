"""End commands at random moments, or take their disk away, and see that what is left is as before or as after.

    python tools/kill.py                             # twenty kills and twelve full disks of each command
    python tools/kill.py --only learn-rail --kills 100 --seed 7

Every method is run, and taught as a learner where it can be; `judge`, `forget`, `export` and `compare` are ended too.
A *kill* is SIGKILL at a moment drawn over the time the command takes. A *full disk* is a limit on the size of files,
which the system enforces: the write that passes it fails in its middle. What is a run goes on with `--resume` and must
end byte for byte as one that nobody ended; everything else is, right after the kill, what it was or what it would
have become. Both is judged from the files, and no file may differ from its digest.

The numbered places of `everclip.storage.faults` are the other half: they hit every write, where this hits any moment.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from everclip.cli import main as everclip
from everclip.errors import EverclipError, InputError
from everclip.learner import LearnerDirectory
from everclip.storage.run import RunDirectory
from everclip.storage.state import CONFIG, DERIVED
from everclip.testing.tiny import VIT, clip_folder, image_folder

KILLS, DISKS = 20, 12
LIMIT = 600.0
"""Seconds after which a command that was not ended has hung."""

# Children are forked from a server that has imported everything and computed nothing: quick, and their own.
SPAWN = multiprocessing.get_context("forkserver")
PRELOADED = [
    "everclip.cli",
    "everclip.experiment.plan",
    "everclip.learner",
    "torch._dynamo",
    "torch.onnx",
    "onnxscript",
    "sklearn.mixture",
]
SPAWN.set_forkserver_preload(PRELOADED)

FEW = ("--device", "cpu", "--set", "iterations=2", "--set", "batch=4", "--set", "warmup=1")
SMALL = {
    "rail": ("random_features=16",),
    "ranpac": ("random_features=16",),
    "moe-adapters": ("strict=true",),
}
"""Settings that make a method quick, by name."""
METHODS = (
    "zero-shot", "finetune", "wc", "wise-ft", "lwf", "lwf-vr", "icarl", "zscl", "moe-adapters", "linear-adapter",
    "attention-adapter", "prompt-tuning", "ncm", "lda", "ranpac", "rail", "rail-dual", "joint", "separate",
)  # fmt: skip
TAUGHT = ("zero-shot", "moe-adapters", "ncm", "lda", "ranpac", "rail", "rail-dual")
"""Methods of which a learner can be made."""


class Ended(NamedTuple):
    """How a command ended: the exit status (negative: by that signal), what it said, and after how many seconds."""

    status: int | None
    said: str
    seconds: float


@dataclass(frozen=True)
class Command:
    """A command whose end is watched.

    Attributes:
        words: of the command line; `HERE` stands for the folder that it writes to, `MADE` for what the workshop made.
        finds: what of the workshop it finds in that folder.
        goes_on: it keeps what it has done, and goes on with that when it is given again.
    """

    words: tuple[str, ...]
    finds: tuple[str, ...] = ()
    goes_on: bool = False


def _settings(method: str) -> tuple[str, ...]:
    return tuple(word for setting in SMALL.get(method, ()) for word in ("--set", setting))


def _run(method: str) -> Command:
    more = ("--set", "reference=MADE/paint") if method == "zscl" else ()
    often = ("--set", "checkpoint_every=1")
    stream = ("--stream", "folders:MADE/paint,MADE/cloth", "--backbone", "MADE/clip")
    words = (
        "run",
        *stream,
        "--method",
        method,
        *FEW,
        *often,
        *_settings(method),
        *more,
        "--out",
        "HERE/run",
        "--resume",
    )
    return Command(words, goes_on=True)


COMMANDS = {
    **{f"run-{method}": _run(method) for method in METHODS},
    "judge": Command(("judge", "MADE/kept", "--selector", "prototype", "--out", "HERE/run", "--resume"), goes_on=True),
    **{f"learn-{method}": Command(("learn", f"HERE/{method}", "MADE/cloth"), (method,)) for method in TAUGHT},
    "learn-first": Command(("learn", "HERE/new", "MADE/paint", "--method", "lda", "--backbone", "MADE/clip")),
    **{f"forget-{name}": Command(("forget", f"HERE/{name}", "paint"), (name,)) for name in ("rail", "moe-adapters")},
    "export": Command(("export", "MADE/rail", "HERE/graph.onnx")),
    "compare": Command(
        ("compare", "MADE/kept", "--csv", "HERE/t.csv", "--latex", "HERE/t.tex", "--plot", "HERE/t.svg")
    ),
}


class Workshop:
    """What the commands need, made when it is first asked for.

    Args:
        root: an empty folder, for all that is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = root / "made"
        self._wholes: dict[str, tuple[Path, float]] = {}
        clip_folder(self.made / "clip", VIT)
        image_folder(self.made / "paint", ["red", "green"], train=4, test=2)
        image_folder(self.made / "cloth", ["gray", "red"], train=4, test=2, seed=1)

    def _make(self, name: str) -> None:
        """Make a run that kept its stages, or a learner of one task."""
        if (self.made / name).exists():
            return
        if name == "kept":
            words = [*_run("moe-adapters").words, "--set", "keep_stages=true", "--selector", "oracle"]
            words[words.index("HERE/run")] = "MADE/kept"
        else:
            few = FEW if name == "moe-adapters" else FEW[:2]
            taught = ("--method", name, "--backbone", "MADE/clip", *few, *_settings(name))
            words = ["learn", f"MADE/{name}", "MADE/paint", *taught]
        done = self.give(words, self.root / "maker")
        if done.status:
            raise EverclipError(f"what the commands need can't be made: {done.said}")

    def laid_out(self, command: Command, here: Path) -> Path:
        """The folder that a command writes to, as it finds it."""
        for word in command.words:
            if word.startswith("MADE/") and not (self.made / word[5:]).exists():
                self._make(word[5:])
        here.mkdir(parents=True)
        for name in command.finds:
            self._make(name)
            shutil.copytree(self.made / name, here / name)
        return here

    def whole(self, name: str) -> tuple[Path, float]:
        """Where a command was given that nobody ended, and the seconds it took.

        Raises:
            EverclipError: it failed.
        """
        if name not in self._wholes:
            here = self.laid_out(COMMANDS[name], self.root / name / "whole")
            done = self.give(COMMANDS[name].words, here)
            if done.status:
                raise EverclipError(f"{name} fails without being ended: {done.said}")
            self._wholes[name] = here, done.seconds
        return self._wholes[name]

    def give(
        self, words: Sequence[str], here: Path, ended_after: float | None = None, largest: int | None = None
    ) -> Ended:
        """Give a command in a process of its own, with a cache of its own in its folder.

        Args:
            words: of the command line.
            here: the folder that it writes to.
            ended_after: SIGKILL after so many seconds.
            largest: no file may become larger than so many bytes.
        """
        told = [word.replace("HERE", str(here)).replace("MADE", str(self.made)) for word in words]
        hears, says = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_child, args=(told, here / "cache", largest, says))
        start = time.perf_counter()
        process.start()
        says.close()
        process.join(LIMIT if ended_after is None else ended_after)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        seconds = time.perf_counter() - start
        try:
            said = hears.recv() if hears.poll() else ""
        except EOFError:
            said = ""
        return Ended(process.exitcode, said, seconds)

    # -- what is left ----------------------------------------------------------------------------------------------

    def kill(self, name: str, moment: float, here: Path) -> bool:
        """End a command at a moment, a share of the time it takes, and judge what is left; whether it was still going.

        Raises:
            EverclipError: what is left is neither as before nor as after.
        """
        command, (_, seconds) = COMMANDS[name], self.whole(name)
        done = self.give(command.words, self.laid_out(command, here), ended_after=moment * seconds)
        self._judge(name, here, f"killed after {moment:.0%} of its time")
        return done.status == -signal.SIGKILL

    def full_disk(self, name: str, largest: int, here: Path) -> None:
        """Give a command a disk that takes no larger files, and judge what it says and what is left.

        Raises:
            EverclipError: it ends otherwise than by a sentence, or what is left is neither as before nor as after.
        """
        command = COMMANDS[name]
        done = self.give(command.words, self.laid_out(command, here), largest=largest)
        how = f"with files of at most {largest} bytes"
        last = done.said.strip().rpartition("\n")[2]
        if done.status not in (0, 1, 2) or (done.status and not last.startswith("everclip: ")):
            raise EverclipError(f"{name} {how} ended with {done.status} and no sentence: {done.said}")
        if done.status == 0 and contents(here) != contents(self.whole(name)[0]):
            raise EverclipError(f"{name} {how} said that it was done, and left something else")
        self._judge(name, here, how)

    def sizes(self, name: str, count: int) -> list[int]:
        """Limits at which writes fail, halfway or at the last byte of what is written; the smallest first."""
        here, _ = self.whole(name)
        written = {path.stat().st_size for path in here.rglob("*") if path.is_file()} - {0}
        limits = sorted({limit for size in written for limit in (size // 2, size - 1)})
        return [limits[round(step * (len(limits) - 1) / (count - 1))] for step in range(count)]

    def _judge(self, name: str, here: Path, how: str) -> None:
        command = COMMANDS[name]
        after = contents(self.whole(name)[0])
        if damaged := list(_damaged(here)):
            raise EverclipError(f"{name} {how} left {damaged[0]}")
        left = contents(here)
        if left == after:
            return
        if not command.goes_on:
            before = contents(self.laid_out(command, here.with_name(f"{here.name}-before")))
            for file in {**left, **before, **after}:
                if left.get(file) not in (before.get(file), after.get(file)):
                    raise EverclipError(f"{name} {how} left {here / file}, which is neither as before nor as after")
        done = self.give(command.words, here)
        if done.status:
            raise EverclipError(f"{name} {how} can't be given again: {done.said}")
        if contents(here) != after:
            raise EverclipError(f"{name} {how} and given again ended otherwise than without that, in {here}")


def contents(here: Path) -> dict[str, str]:
    """What a command left, by name. The files that a state names by their digests count as the state does."""
    found = {}
    for path in sorted(path for path in here.rglob("*") if path.is_file()):
        name = path.relative_to(here).as_posix()
        if path.name in ("state.json", "learner.json"):
            found[name] = json.dumps(json.loads(path.read_bytes()), sort_keys=True)
        elif path.suffix in (".csv", ".tex", ".svg", ".onnx") or path.name in (CONFIG, *DERIVED):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _damaged(here: Path) -> Iterator[str]:
    """A sentence for every file that is not as written."""
    for folder in here.iterdir():
        if (folder / "learner.json").exists():
            checked = LearnerDirectory(folder).verify()
        elif folder.name == "run":
            checked = RunDirectory(folder).verify()
        else:
            continue
        yield from (file.problem for file in checked if file.problem)


def _child(words: list[str], cache: Path, largest: int | None, says: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["EVERCLIP_CACHE"] = str(cache)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    status = 1
    try:
        everclip(words)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    says.send(sys.stderr.getvalue())
    says.close()
    os._exit(status)


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="Which command; give it several times. All by default.")
    ] = None,
    kills: Annotated[int, typer.Option(min=0, help="How often each is killed.")] = KILLS,
    disks: Annotated[
        int, typer.Option(min=0, help="How many sizes of full disks each meets; none, or two and more.")
    ] = DISKS,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """End commands at random moments and on full disks, and judge what they leave."""
    for name in only or ():
        if name not in COMMANDS:
            raise InputError(f"there is no command '{name}'; choose from {', '.join(COMMANDS)}.")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        for name in only or COMMANDS:
            going = 0
            draw = random.Random(f"{seed} {name}")
            try:
                for number in range(kills):
                    going += workshop.kill(name, draw.random(), workshop.root / name / f"kill-{number}")
                sizes = workshop.sizes(name, disks) if disks > 1 else []
                for size in sizes:
                    workshop.full_disk(name, size, workshop.root / name / f"disk-{size}")
            except EverclipError as error:
                wrong += 1
                typer.echo(f"{name}: {error}")
                continue
            shutil.rmtree(workshop.root / name)
            typer.echo(f"{name}: {going} of {kills} kills met it at work, {len(sizes)} full disks; nothing between")
    if wrong:
        raise EverclipError(f"{wrong} commands left something between before and after")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EverclipError as error:
        typer.echo(f"kill: {error}", err=True)
        sys.exit(error.exit_code)
