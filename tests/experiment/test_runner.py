"""Runs as processes: cut off everywhere and resumed, damaged, refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everclip.errors import EverclipError, InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.storage import faults

from .. import tiny

# Children are forked from a server that has imported everything and computed nothing: quick and safe.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["everclip.experiment.runner", "torch._dynamo"])  # the latter is loaded by optimizers

FAULT_POINTS = 58
"""Fault points a finetune run over two tasks reaches when the caches are warm; `test_every_fault_point` checks it."""


def child(values: dict, out: Path, fault: str | None, error: Path) -> None:
    """Run an experiment, ending at a fault point if told; an error's sentence goes to a file."""
    torch.set_num_threads(1)
    if fault is not None:
        os.environ["EVERCLIP_FAULT"] = fault
    try:
        runner.run(Config.of(values), out, resume=True)
    except EverclipError as problem:
        error.write_text(str(problem))
        raise SystemExit(problem.exit_code) from problem


def start(values: dict, out: Path, fault: str | None = None) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=child, args=(values, out, fault, out.with_suffix(".error")))
    process.start()
    return process


def run(values: dict, out: Path, fault: str | None = None) -> tuple[int | None, str]:
    """Exit code and error sentence of a run in a process of its own."""
    error = out.with_suffix(".error")
    error.unlink(missing_ok=True)
    process = start(values, out, fault)
    process.join(120)
    return process.exitcode, error.read_text() if error.exists() else ""


def assert_same(one: Path, other: Path) -> None:
    for name in ("matrix.csv", "results.json", "report.html", "config.yaml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    states = [json.loads((path / "checkpoints/state.json").read_text())["state"] for path in (one, other)]
    assert states[0] == states[1]  # it holds the SHA-256 of every tensor file
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in other.rglob("*"))


OF = {
    "finetune": {"method": "finetune"},
    "separate": {"method": "separate"},
    "rail": {"method": "rail", "random_features": 32},
    "moe-adapters": {"method": "moe-adapters", "strict": True, "iterations": 3, "checkpoint_every": 1},
    **{name: {"method": name, "iterations": 3, "checkpoint_every": 1} for name in ("linear-adapter", "prompt-tuning")},
    "attention-adapter": {"method": "attention-adapter", "iterations": 3, "checkpoint_every": 2, "retention": "soft"},
}
"""What each method's runs change of the common settings."""


@pytest.fixture(scope="module")
def values(tiny_clip: Path, two_folders: str) -> dict:
    return {
        "method": "finetune", "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu",
        "iterations": 4, "batch": 4, "warmup": 1, "checkpoint_every": 2, "lr": 1e-3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(values: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs, by method."""
    runs = {}
    for method in OF:
        runs[method] = tmp_path_factory.mktemp("whole") / method
        assert run(values | OF[method], runs[method]) == (0, "")
    return runs


@pytest.fixture
def cut(values: dict, tmp_path: Path) -> Path:
    """A run that was cut off in the second task, after a checkpoint within it."""
    out = tmp_path / "cut"
    assert run(values, out, "35")[0] == faults.EXIT_CODE
    state = json.loads((out / "checkpoints/state.json").read_text())["state"]
    assert (state["stages_learned"], state["step"]) == (1, 2)
    return out


# -- what a run leaves behind --------------------------------------------------------------------------------------


def test_a_run_leaves_its_figures(whole: dict[str, Path], values: dict) -> None:
    results = json.loads((whole["finetune"] / "results.json").read_text())
    fields = {"transfer", "average", "last", "per_dataset", "protocol", "by_candidates", "method", "backbone"}
    assert fields <= set(results)
    assert set(results["by_candidates"]) == {"task", "seen", "all"}
    assert 0 <= results["last"] <= 100
    matrix = results["by_candidates"]["task"]["matrix"]
    assert results["last"] == pytest.approx(sum(matrix[-1]) / 2)
    assert results["transfer"] == pytest.approx(matrix[0][1])
    lines = (whole["finetune"] / "matrix.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 3  # after each task, each data set, each candidate set
    assert "http" not in (whole["finetune"] / "report.html").read_text().replace("http://www.w3.org/", "")


def test_a_routed_method_says_where_images_went(whole: dict[str, Path]) -> None:
    routing = json.loads((whole["separate"] / "results.json").read_text())["routing"]
    assert routing["columns"] == ["paint", "cloth", "zero-shot"]
    assert routing["after"] == [[[9, 0, 0], [0, 0, 6]], [[9, 0, 0], [0, 6, 0]]]  # the oracle's diagonal


def test_the_configuration_runs_again(whole: dict[str, Path], tmp_path: Path) -> None:
    import yaml

    again = yaml.safe_load((whole["finetune"] / "config.yaml").read_text())
    assert run(again, tmp_path / "again") == (0, "")
    assert_same(whole["finetune"], tmp_path / "again")


def test_all_at_once_has_one_row(values: dict, tmp_path: Path) -> None:
    assert run(values | {"method": "joint"}, tmp_path / "joint") == (0, "")
    results = json.loads((tmp_path / "joint/results.json").read_text())
    assert results["transfer"] is None
    assert results["last"] is not None
    assert results["upper_bound"] is True
    assert [row[0] is None for row in results["by_candidates"]["task"]["matrix"]] == [True, False]


# -- cut off and resumed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("finetune", 7),
        ("finetune", 28),
        ("finetune", 51),
        ("separate", 22),
        *[("rail", n) for n in (1, 4, 12, 20)],
        *[("moe-adapters", n) for n in (20, 45, 55, 60)],
        *[("linear-adapter", n) for n in (11, 39, 48)],
        ("attention-adapter", 32),
        ("prompt-tuning", 46),
    ],
)
def test_cut_off_and_resumed_is_the_same_run(
    whole: dict[str, Path], values: dict, tmp_path: Path, method: str, fault: int
) -> None:
    values = values | OF[method]
    assert run(values, tmp_path / "run", str(fault))[0] == faults.EXIT_CODE
    assert run(values, tmp_path / "run") == (0, "")
    assert_same(whole[method], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("fault", range(1, FAULT_POINTS + 2))
def test_every_fault_point(whole: dict[str, Path], values: dict, tmp_path: Path, fault: int) -> None:
    cut_off = fault <= FAULT_POINTS
    assert run(values, tmp_path / "run", str(fault))[0] == (faults.EXIT_CODE if cut_off else 0)
    if cut_off:
        assert run(values, tmp_path / "run") == (0, "")
    assert_same(whole["finetune"], tmp_path / "run")


@pytest.mark.slow
def test_cut_off_again_and_again(whole: dict[str, Path], values: dict, tmp_path: Path) -> None:
    # A resume passes a dozen points before it has stored more than the one before it had.
    codes = [run(values, tmp_path / "run", "14")[0] for _ in range(30)]
    assert codes[0] == faults.EXIT_CODE
    assert codes[-1] == 0
    assert_same(whole["finetune"], tmp_path / "run")


@pytest.mark.parametrize("moment", ["started", "learned"])
def test_sigkill(whole: dict[str, Path], values: dict, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "run"
    process = start(values, out)
    awaited = {"started": "checkpoints", "learned": "matrix.csv"}[moment]
    while process.is_alive() and not (out / awaited).exists():
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert run(values, out) == (0, "")
    assert_same(whole["finetune"], out)


def test_a_full_disk_stops_and_goes_on(whole: dict[str, Path], values: dict, tmp_path: Path) -> None:
    code, sentence = run(values, tmp_path / "run", "29:disk-full")
    assert code == 1
    assert "No space left" in sentence
    assert "--resume" in sentence
    assert run(values, tmp_path / "run") == (0, "")
    assert_same(whole["finetune"], tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(whole: dict[str, Path], values: dict) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole["finetune"].rglob("*") if p.is_file()}
    assert run(values, whole["finetune"]) == (0, "")
    assert before == {p: p.stat().st_mtime_ns for p in whole["finetune"].rglob("*") if p.is_file()}


def test_an_unfinished_run_may_move_and_use_other_hands(whole: dict[str, Path], values: dict, cut: Path) -> None:
    moved = cut.rename(cut.with_name("moved"))
    assert run(values | {"workers": 1}, moved) == (0, "")
    assert (moved / "results.json").read_bytes() == (whole["finetune"] / "results.json").read_bytes()


# -- refused -------------------------------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten(whole: dict[str, Path], values: dict) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        runner.run(Config.of(values), whole["finetune"])


def test_a_folder_with_other_files_is_not_used(values: dict, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        runner.run(Config.of(values), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_with_other_settings_names_the_difference(cut: Path, values: dict) -> None:
    code, sentence = run(values | {"lr": 0.5}, cut)
    assert code == 2
    assert "lr=0.001, not 0.5" in sentence


def test_bad_data_creates_nothing(values: dict, tmp_path: Path) -> None:
    code, sentence = run(values | {"stream": f"folders:{tmp_path / 'nowhere'}"}, tmp_path / "run")
    assert code == 2
    assert "nowhere" in sentence
    assert not (tmp_path / "run").exists()


def test_a_training_folder_of_bad_images_names_one(values: dict, tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "broken", ["red", "green"])
    for path in (folder / "train").rglob("*.png"):
        path.write_text("not an image")
    code, sentence = run(values | {"stream": f"folders:{folder}"}, tmp_path / "run")
    assert code == 2
    assert "000.png" in sentence


def test_bad_images_are_counted_and_named(values: dict, tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "some", ["red", "green"])
    (folder / "train/red/zero.png").touch()
    (folder / "test/green/words.jpg").write_text("words")
    assert run(values | {"stream": f"folders:{folder}"}, tmp_path / "run") == (0, "")
    dataset = json.loads((tmp_path / "run/results.json").read_text())["datasets"][0]
    assert dataset["skipped"] == 2
    assert {Path(entry["name"]).name for entry in dataset["skipped_files"]} == {"zero.png", "words.jpg"}


def test_a_loss_that_is_no_number_keeps_the_last_good_state(values: dict, tmp_path: Path) -> None:
    hot = values | {"lr": 1e30, "iterations": 30, "checkpoint_every": 1}
    code, sentence = run(hot, tmp_path / "run")
    assert code == 1
    assert "step" in sentence
    assert ".png" in sentence or "no longer finite" in sentence
    state = json.loads((tmp_path / "run/checkpoints/state.json").read_text())["state"]
    tensors = load_file(tmp_path / "run" / state["working"])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


# -- reference images ----------------------------------------------------------------------------------------------


@pytest.fixture
def referred(values: dict, tmp_path: Path) -> dict:
    """A routed run whose selector is given reference images; one of its files is bad."""
    folder = tiny.image_folder(tmp_path / "others", ["blue", "gray"], seed=5)
    (folder / "words.jpg").write_text("words")
    return values | {"method": "separate", "selector": "gaussian", "reference": str(folder)}


def test_a_selector_learns_the_reference_first(referred: dict, tmp_path: Path) -> None:
    assert run(referred, tmp_path / "whole") == (0, "")
    results = json.loads((tmp_path / "whole/results.json").read_text())
    assert results["protocol"]["reference"] == "others"
    state = json.loads((tmp_path / "whole/checkpoints/state.json").read_text())["state"]
    stored = load_file(tmp_path / "whole" / state["selector"])
    assert stored["reference.count"] + len(stored["reference.held_out"]) == 18  # 2 · (6 + 3), without the bad one
    for fault in ("12", "30"):  # within the first task, and after it
        assert run(referred, tmp_path / fault, fault)[0] == faults.EXIT_CODE
        assert run(referred, tmp_path / fault) == (0, "")
        assert_same(tmp_path / "whole", tmp_path / fault)


def test_a_resume_with_another_reference_is_refused(referred: dict, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(referred, out, "30")[0] == faults.EXIT_CODE
    code, sentence = run(referred | {"reference": None}, out)
    assert code == 2
    assert "reference=" in sentence
    tiny.image_folder(Path(referred["reference"]) / "more", ["red"])
    code, sentence = run(referred, out)
    assert code == 1
    assert "reference images" in sentence


def test_a_reference_without_images_creates_nothing(referred: dict, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        code, sentence = run(referred | {"reference": str(tmp_path / folder)}, tmp_path / "run")
        assert code == 2
        assert folder in sentence
        assert not (tmp_path / "run").exists()


def test_other_alexnet_weights_are_noticed(referred: dict, tmp_path: Path) -> None:
    file = tmp_path / "alexnet.pth"
    settings = {"selector": "ddas", "features": "alexnet", "alexnet": str(file), "ddas_rule": "published"}
    quick = {"ddas_iterations": 2, "reference_iterations": 2, "routing": "batch", "threshold": 1.0}
    values = referred | settings | quick
    code, sentence = run(values, tmp_path / "run")
    assert code == 2
    assert f"alexnet={file}" in sentence
    assert not (tmp_path / "run").exists()
    torch.save(tiny.alexnet_weights(), file)
    assert run(values, tmp_path / "run", "30")[0] == faults.EXIT_CODE
    torch.save(tiny.alexnet_weights(seed=1), file)
    code, sentence = run(values, tmp_path / "run")
    assert code == 1
    assert "AlexNet weights" in sentence
    torch.save(tiny.alexnet_weights(), file)
    assert run(values, tmp_path / "run") == (0, "")
    routing = json.loads((tmp_path / "run/results.json").read_text())["routing"]["after"]
    assert all(sorted(row)[:-1] == [0, 0] for after in routing for row in after), "each set is smaller than a batch"


# -- damaged -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["state.json", "working-*", "optimizer-*", "after-*"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_one_sentence_that_names_the_file(cut: Path, values: dict, pattern: str, damage: str) -> None:
    (path,) = cut.rglob(pattern)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    code, sentence = run(values, cut)
    assert code == 1
    assert path.name in sentence
    assert "\n" not in sentence


def rewrite_state(out: Path, **changes: object) -> None:
    from everclip.storage.directory import body_digest

    path = out / "checkpoints/state.json"
    body = json.loads(path.read_text())["state"] | changes
    path.write_text(json.dumps({"sha256": body_digest(body), "state": body}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "joint"}, "method 'joint'"),
        ({"backbone": "0" * 32}, "weights"),
        ({"data": "0" * 32}, "images, labels"),
        ({"format": 99}, "version"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(cut: Path, values: dict, changes: dict, words: str) -> None:
    rewrite_state(cut, **changes)
    code, sentence = run(values, cut)
    assert code == 1
    assert words in sentence


def test_other_weights_under_the_same_name_are_noticed(values: dict, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    shutil.copytree(values["backbone"], clip)
    values = values | {"backbone": str(clip)}
    assert run(values, tmp_path / "run", "33")[0] == faults.EXIT_CODE
    shutil.rmtree(clip)
    changed = json.loads(json.dumps(tiny.VIT))
    tiny.clip_folder(clip, changed, seed=1)
    code, sentence = run(values, tmp_path / "run")
    assert code == 1
    assert "backbone weights" in sentence


def test_two_processes_do_not_share_a_run(values: dict, tmp_path: Path) -> None:
    out = tmp_path / "run"
    long = values | {"iterations": 2000}
    first = start(long, out)
    while first.is_alive() and not list(out.glob("checkpoints/state.json")):
        time.sleep(0.01)
    code, sentence = run(long, out)
    assert first.is_alive()
    first.kill()
    first.join()
    assert code == 1
    assert f"process {first.pid}" in sentence
    # The dead owner's lock keeps nobody out.
    assert run(long, out, "30")[0] == faults.EXIT_CODE
