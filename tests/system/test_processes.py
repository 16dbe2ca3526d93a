"""Two processes do what one does, in every method whose loss or routing looks at more than one image at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everclip.backbone import features
from everclip.data import verify_cache
from everclip.data.names import DEFAULT_TEMPLATES
from everclip.engine.recipe import TrainingConfig
from everclip.errors import InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.layers import moe
from everclip.system import processes

from .. import tiny
from ..torchrun import same_noise

ROOT = Path(__file__).parents[2]
CACHES = ("cache-one", "cache-two")


def torchrun(function: str, job: object, cache: Path, count: int = 2) -> subprocess.CompletedProcess:
    """Run a function of `torchrun.py` in several processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [sys.executable, *launch, "-m", "tests.torchrun", function, json.dumps(job)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "EVERCLIP_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two image folders. One class is in both: of two equal prompts the first wins, in one process and in two."""
    root = tmp_path_factory.mktemp("folders")
    first = tiny.image_folder(root / "paint", ["red", "green", "blue"])
    return f"folders:{first},{tiny.image_folder(root / 'cloth', ['gray', 'violet'], seed=1)}"


@pytest.fixture(scope="module")
def common(tiny_clip: Path, stream: str) -> dict:
    """Settings of all runs: a batch that two processes do not share evenly, and a loss in every event.

    The rate is low: Adam moves what has no gradient but rounding errors as far as everything else.
    """
    return {
        "stream": stream, "backbone": str(tiny_clip), "device": "cpu", "lr": 1e-4,
        "iterations": 10, "batch": 5, "warmup": 2, "checkpoint_every": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def methods(common: dict, stream: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Runs by name: nothing is drawn per image, for each process draws for its own."""
    reference = stream.partition(":")[2].partition(",")[0] + "/test"
    # Prompts of the first task: student and teacher agree at first, so tokens that are in no prompt have no gradient.
    texts = tmp_path_factory.mktemp("texts") / "texts.txt"
    texts.write_text("\n".join(DEFAULT_TEMPLATES[0].replace("{}", name) for name in ("red", "green", "blue")))
    zscl = {"method": "zscl", "reference": reference, "random_texts": 7, "average_every": 3}
    adapters = {"method": "moe-adapters", "dropout": 0.0, "experts": 6, "balance_weight": 0.01, "lr": 1e-3}
    return {
        "finetune": common | {"method": "finetune"},
        "in-parts": common | {"method": "finetune", "optimizer": "sgd", "accumulate": 2, "clip_norm": 0.5, "lr": 1e-2},
        "zscl": common | zscl,
        "zscl-text": common | zscl | {"distill_text": True, "reference_texts": str(texts)},
        "moe-adapters": common | adapters,
        "prompt-tuning": common | {"method": "prompt-tuning", "lr": 1e-2, "iterations": 3},
    }


def losses(out: Path) -> torch.Tensor:
    """Losses in the order of stages and steps; of a step that was taken again after a break, the later one."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    steps = {(event["stage"], event["step"]): event["loss"] for event in events if event["event"] == "step"}
    return torch.tensor([steps[place] for place in sorted(steps)])


def learned(out: Path) -> dict[str, torch.Tensor]:
    """All tensors that the last state names, by file and name."""
    directory = runner.RunDirectory(out)
    state = directory.peek_state()
    return {f"{file}/{n}": t for file in state.files for n, t in directory.read_tensors(file).items()}


def assert_same(one: Path, other: Path) -> None:
    torch.testing.assert_close(losses(other), losses(one), atol=1e-4, rtol=0)
    assert (one / "matrix.csv").read_text() == (other / "matrix.csv").read_text()
    expected, got = learned(one), learned(other)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(got[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
        else:
            assert torch.equal(got[name], tensor), name  # hits, who froze what, right and wrong answers


@pytest.fixture(scope="module")
def pairs(methods: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Every run by one process and by two, each from an empty cache."""
    root = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:  # as `plain` in torchrun.py
        patch.setenv("EVERCLIP_CACHE", str(root / CACHES[0]))
        patch.setattr(features, "BATCH", 2)
        patch.setattr(moe, "draw_noise", same_noise)
        for name, values in methods.items():
            runner.run(Config.of(values), root / "one" / name)
    jobs = [{"values": values, "out": str(root / "two" / name)} for name, values in methods.items()]
    done = torchrun("runs", jobs, root / CACHES[1])
    assert done.returncode == 0, done.stderr
    return {name: (root / "one" / name, root / "two" / name) for name in methods}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "in-parts", "zscl", "zscl-text", "moe-adapters", "prompt-tuning"])
def test_two_processes_do_what_one_does(pairs: dict[str, tuple[Path, Path]], name: str) -> None:
    one, two = pairs[name]
    assert_same(one, two)
    started = json.loads((two / "events.jsonl").read_text().splitlines()[0])
    assert (started["event"], started["processes"]) == ("start", 2)


@pytest.mark.slow
def test_two_processes_cache_what_one_does(pairs: dict[str, tuple[Path, Path]]) -> None:
    """Features of the frozen CLIP, to the last bit: the processes share the batches, which stay what they are."""
    root = pairs["finetune"][0].parents[1]
    for kind in ("embeddings", "images"):
        one, two = ({p.name: p.read_bytes() for p in (root / cache / kind).iterdir()} for cache in CACHES)
        assert one == two
        assert one


@pytest.mark.slow
def test_two_processes_mend_a_damaged_cache(
    methods: dict, pairs: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each computes what it finds damaged by itself, while the other goes on or does the same."""
    cache, two = tmp_path / "cache", pairs["zscl"][1]
    shutil.copytree(two.parents[1] / CACHES[1], cache)
    monkeypatch.setenv("EVERCLIP_CACHE", str(cache))
    files = [file.path for file in verify_cache()]
    before = {path: path.read_bytes() for path in files}
    for path in files:
        content = bytearray(before[path])
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    out = tmp_path / "again"
    done = torchrun("runs", [{"values": methods["zscl"], "out": str(out)}], cache)
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert (out / "matrix.csv").read_bytes() == (two / "matrix.csv").read_bytes()
    assert torch.equal(losses(out), losses(two))
    named = [path for path in files if str(path) in done.stderr]
    assert len(named) > 4
    assert all(path.read_bytes() == before[path] for path in named)


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(
    methods: dict, pairs: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two ends without a word in the middle of a task; the other ends too, with a sentence."""
    values, out = methods["finetune"], tmp_path / "run"
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    settings = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    # The second process reaches no fault point but its steps and test sets: this is the fifth step of the second task.
    job = {"args": ["run", "--out", str(out), *settings], "rank": "1", "fault": "17"}
    done = torchrun("command", job, tmp_path / "cache")
    assert done.returncode != 0
    assert "everclip: another process" in done.stderr or "everclip: stopped by SIGTERM" in done.stderr
    assert "everclip/training.py" not in done.stderr  # the traceback is that of torchrun
    state = runner.RunDirectory(out).peek_state()
    assert state is not None
    # The first process entered the exchange of step 4 with the state of step 3 on disk. Afterwards it writes that of
    # step 4 while the other one ends, and may itself be stopped in the middle of that.
    assert (state.stages_learned, state.step) in {(1, 3), (1, 4)}

    monkeypatch.setattr(features, "BATCH", 2)
    runner.run(Config.of(values), out, resume=True)
    assert learned(out).keys() == learned(pairs["finetune"][0]).keys()
    assert (out / "matrix.csv").read_text() == (pairs["finetune"][0] / "matrix.csv").read_text()
    torch.testing.assert_close(losses(out), losses(pairs["finetune"][0]), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_exchanges(tmp_path: Path) -> None:
    assert torchrun("exchanges", {"out": str(tmp_path)}, tmp_path / "cache").returncode == 0
    got = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    rows = torch.arange(10.0).view(5, 2).requires_grad_()
    (3 * (rows**4).sum()).backward()  # 1 + 2 times the loss of the first
    assert rows.grad is not None
    assert [each["share"] for each in got] == [[0, 3], [3, 5]]
    for each in got:
        assert each["gathered"] == (rows**2).tolist()
        assert each["gradient"] == rows.grad[slice(*each["share"])].tolist()
        assert each["summed"] == [[3.0, 3.0], [1.0, 1.0], None]
        assert each["none"] == [[0.0, 0.0, 0.0]]
        assert each["said"] == "by 0"
    assert (tmp_path / "order").read_text() == "01"


def test_one_process_is_all_there_is() -> None:
    rows = torch.ones(3, 2)
    assert processes.gathered(rows) is rows
    assert processes.summed(rows) is rows
    assert processes.share(7) == slice(0, 7)
    assert processes.by_main(lambda: 4) == 4
    processes.join("cpu")
    assert (processes.rank(), processes.world(), processes.is_main()) == (0, 1, True)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_shares_are_all_there_is(monkeypatch: pytest.MonkeyPatch, world: int, count: int) -> None:
    monkeypatch.setattr(processes, "world", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        parts.append(list(range(count))[processes.share(count)])
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_process_needs_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everclip.engine.recipe.world", lambda: 4)
    with pytest.raises(InputError, match="batch=3 leaves some of the 4 processes"):
        TrainingConfig(batch=3).rows()
