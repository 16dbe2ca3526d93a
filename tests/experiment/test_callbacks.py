"""Who looks on at a run: what callbacks are told, that they change nothing, and that a failing one costs nothing."""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import everclip
from everclip.errors import InputError
from everclip.experiment import runner
from everclip.experiment.callbacks import Callback, Row, Start, Step
from everclip.experiment.config import Config
from everclip.experiment.trackers import CALLBACKS, TensorBoard, WeightsAndBiases, callbacks_of
from everclip.system.display import Display


class Told(Callback):
    name, summary = "told", "keeps what it is told"

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_start(self, run: Start) -> None:
        self.calls.append(("start", run))

    def on_step(self, step: Step) -> None:
        torch.rand(7)
        random.random()
        self.calls.append(("step", step))

    def on_task(self, row: Row) -> None:
        torch.manual_seed(1)
        self.calls.append(("task", row))

    def on_end(self, results: Mapping[str, Any]) -> None:
        self.calls.append(("end", results))

    def close(self) -> None:
        self.calls.append(("close", None))

    def of(self, kind: str) -> list[Any]:
        return [told for what, told in self.calls if what == kind]


class Failing(Told):
    name, summary = "failing", "raises"

    def __init__(self, hook: str, error: BaseException) -> None:
        super().__init__()
        self.hook, self.error = hook, error

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("on_", "close")) and name == self.hook:
            self.calls.append((name, None))
            raise self.error
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    for name in set(CALLBACKS._registered):
        CALLBACKS.unregister(name)


@pytest.fixture(scope="module")
def config(tiny_clip: Path, two_folders: str) -> Config:
    return Config.of(
        {
            "method": "prompt-tuning", "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu",
            "iterations": 4, "batch": 4, "warmup": 1, "checkpoint_every": 3, "log_every": 2, "lr": 1e-3,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody looked at."""
    out = tmp_path_factory.mktemp("plain") / "run"
    runner.run(config, out)
    return out


def assert_same(one: Path, other: Path) -> None:
    for name in ("results.json", "report.html", "config.yaml", "checkpoints/state.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_callback_is_told_what_happens_and_changes_nothing(config: Config, plain: Path, tmp_path: Path) -> None:
    told = Told()
    results = runner.run(config, tmp_path / "run", callbacks=[told])
    kinds = [what for what, _ in told.calls]
    assert kinds == ["start", *["step"] * 3, "task", *["step"] * 3, "task", "end", "close"]
    start = told.of("start")[0]
    assert (start.path, start.tasks, start.resumed, start.step) == (tmp_path / "run", ("paint", "cloth"), False, 0)
    assert start.config == config.flat()
    assert [step.step for step in told.of("step")] == [2, 3, 4, 6, 7, 8]
    last = told.of("step")[-1]
    assert (last.tasks, last.step_of_stage, last.steps_of_stage) == (("cloth",), 4, 4)
    assert set(last.parts) == {"ce", "replay"}
    assert len(last.rates) == 1
    assert last.images_per_second > 0
    rows = told.of("task")
    assert [(row.task, row.learned, row.candidates) for row in rows] == [("paint", 1, "task"), ("cloth", 2, "task")]
    for row, figures in zip(rows, results["by_candidates"]["seen"]["matrix"], strict=True):
        assert list(row.accuracy["seen"].values()) == pytest.approx(figures)
    assert told.of("end") == [results]
    assert_same(tmp_path / "run", plain)


def test_a_resume_may_have_other_callbacks(config: Config, plain: Path, tmp_path: Path) -> None:
    """It goes on counting the steps of the run, and tells no row again."""

    class Stopping(Told):
        def on_step(self, step: Step) -> None:
            if step.step == 8:
                raise KeyboardInterrupt

    first, second = Stopping(), Told()
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, tmp_path / "run", callbacks=[first])
    assert [what for what, _ in first.calls][-1] == "close", "who is stopped is let go as well"
    runner.run(config, tmp_path / "run", resume=True, callbacks=[second])
    start = second.of("start")[0]
    assert (start.resumed, start.step) == (True, 7)
    assert [step.step for step in second.of("step")] == [8]
    assert [row.task for row in second.of("task")] == ["cloth"]
    assert_same(tmp_path / "run", plain)


def test_nobody_is_called_for_a_run_that_is_done(config: Config, plain: Path) -> None:
    told = Told()
    runner.run(config, plain, resume=True, callbacks=[told])
    assert told.calls == []


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_start", "on_step", "on_task", "on_end", "close"])
def test_a_callback_that_fails_is_named_and_left_out(config: Config, plain: Path, tmp_path: Path, hook: str) -> None:
    failing, told = Failing(hook, ValueError("no\nroom.")), Told()
    with pytest.warns(
        UserWarning, match=f"^callback 'failing' failed in {hook} .ValueError: no room. and is left out; "
    ):
        runner.run(config, tmp_path / "run", callbacks=[failing, told])
    assert [what for what, _ in failing.calls].count(hook) == 1
    assert len(told.of("step")) == 6, "the others are called all the same"
    assert_same(tmp_path / "run", plain)
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert [event["reason"] for event in events if event["event"] == "callback failed"]


def test_it_is_said_on_the_display(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Leaving(Callback):
        def on_start(self, run: Start) -> None:
            raise SystemExit(3)

    runner.run(config, tmp_path / "run", display=Display(), callbacks=[Leaving()])
    assert "callback 'Leaving' failed in on_start (SystemExit: 3) and is left out" in capsys.readouterr().err


# -- which callbacks ---------------------------------------------------------------------------------------------------


def test_callbacks_are_objects_classes_or_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import everclip\nclass Mine(everclip.Callback):\n    name, summary = 'mine', 'by its place'\n"
    (tmp_path / "own_callbacks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    told = Told()
    found = callbacks_of([told, Told, "own_callbacks:Mine", "mine", "told"])
    assert found[0] is told
    assert [each.name for each in found] == ["told", "mine"], "one of each kind"
    assert everclip.Callback is Callback
    assert everclip.register(Told) is Told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tensorbord", "there is no callback 'tensorbord'; choose from tensorboard, wandb"),
        ("json:loads", "loads has no name"),
        ("nowhere_at_all:Mine", "'nowhere_at_all:Mine' can't be imported"),
        (int, "int has no name"),
        (Failing, r"callback 'failing' can't be made \(TypeError: .*; repair it, or leave it out"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_written(
    config: Config, tmp_path: Path, given: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        runner.run(config, tmp_path / "run", callbacks=[given])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [TensorBoard, WeightsAndBiases])
def test_a_missing_package_is_named_with_the_remedy(kind: type[Callback], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorboard", "torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"callback '{kind.name}' needs .*pip install 'everclip\[trackers\]'"):
        callbacks_of([kind.name])


# -- TensorBoard and Weights & Biases ----------------------------------------------------------------------------------


class Recorder(ModuleType):
    """Stands for a tracker's package: whatever is called is kept, with what it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "summary":
            return self

        def call(*args: Any, **named: Any) -> Recorder:
            self.calls.append((name, args, named))
            return self

        return call

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [args for called, args, _ in self.calls if called == name]


EVERY = {"loss/total", "loss/ce", "loss/replay", "rate/lr", "speed/images per second"}
ACCURACIES = {"accuracy/paint", "accuracy/cloth", "accuracy/mean of the learned tasks"}


def test_tensorboard_is_told(config: Config, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Recorder("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    out = tmp_path / "run"
    results = runner.run(config, out, callbacks=["tensorboard"])
    assert fake.calls[0] == ("SummaryWriter", (str(out / "tensorboard"),), {"purge_step": None})
    scalars = fake.of("add_scalar")
    assert {tag for tag, _, step in scalars if step == 7} == EVERY
    assert {tag for tag, _, step in scalars if step == 1} == ACCURACIES
    assert ("result/last", results["last"], 2) in scalars
    assert fake.calls[-1][0] == "close"
    assert_same(out, plain)


def test_wandb_is_told_and_stays_offline(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "run"
    results = runner.run(config, out, callbacks=["wandb"])
    begun = next(named for name, _, named in fake.calls if name == "init")
    assert (begun["mode"], begun["dir"], begun["id"], begun["project"]) == ("offline", str(out), None, "everclip")
    assert begun["config"] == config.flat()
    logged = [given for (given,) in fake.of("log")]
    assert set(logged[0]) == {"step"} | EVERY - {"loss/replay"}, "nothing is replayed in the first task"
    assert set(logged[3]) == {"learned"} | ACCURACIES
    assert fake.of("update")[0][0]["result/last"] == results["last"]
    assert fake.calls[-1][0] == "finish"


def test_a_run_of_wandb_keeps_its_id(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "wandb/offline-run-20260101_000000-abc123").mkdir(parents=True)
    (tmp_path / "wandb/latest-run").touch()
    WeightsAndBiases().on_start(Start(tmp_path, config.flat(), ("a",), True, 7))
    assert next(named for name, _, named in fake.calls if name == "init")["id"] == "abc123"


def test_tensorboard_itself_reads_the_run(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"

    class Stopping(Callback):
        def on_step(self, step: Step) -> None:
            if step.step == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(config, out, callbacks=["tensorboard", Stopping()])
    results = runner.run(config, out, resume=True, callbacks=["tensorboard"])
    read = accumulator.EventAccumulator(str(out / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("loss/ce")] == [2, 3, 4, 6, 7, 8]
    assert [event.step for event in read.Scalars("accuracy/cloth")] == [1, 2]
    assert read.Scalars("result/last")[0].value == pytest.approx(results["last"])


@pytest.mark.slow
def test_wandb_itself_takes_the_run(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="callback")
        runner.run(config, tmp_path / "run", callbacks=["wandb"])
    wandb.teardown()  # as the end of the process does: the file is complete
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for tag in (*EVERY, *ACCURACIES):
        assert tag.encode() in content
