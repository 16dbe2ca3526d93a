"""A learner from a stranger: its digests fit, and still nothing in it is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.cli import main
from everclip.errors import EverclipError, InputError
from everclip.learner import Learner, LearnerDirectory
from everclip.learner.knowledge import Knowledge
from everclip.learner.storing import restored, settings
from everclip.storage.directory import body_digest

SETTINGS: dict[str, dict[str, Any]] = {
    "rail": {"random_features": 8},
    "rail-dual": {},
    "lda": {},
    "moe-adapters": {"iterations": 2, "batch": 4, "warmup": 0, "bottleneck": 2},
}
ROUTER = "method.towers.image.0.routers."


@pytest.fixture(scope="module")
def learners(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of a learner of two tasks, by method."""
    made = {}
    for method, own in SETTINGS.items():
        learner = Learner.create(str(tiny_clip), method, own, "cpu")
        for number, classes in enumerate((("red", "green"), ("blue", "gray"))):
            draw = np.random.default_rng(number)
            images = [(draw.integers(0, 255, (32, 32, 3), np.uint8), each) for each in classes for _ in range(10)]
            learner.learn(f"task {number}", images)
        folder = tmp_path_factory.mktemp(method)
        learner.save(folder)
        made[method] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    return made


@pytest.fixture(scope="module")
def features(tiny_clip: Path) -> FrozenFeatures:
    return FrozenFeatures(Backbone.load(str(tiny_clip), torch.device("cpu")))


class Stranger:
    """A learner in a folder, and what somebody does to it who can compute a SHA-256."""

    def __init__(self, folder: Path, features: FrozenFeatures) -> None:
        self.folder = folder
        self.features = features

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "learner.json").read_text())["state"]
        return found

    def say(self, change: Callable[[dict[str, Any]], None]) -> None:
        body = self.state
        change(body)
        (self.folder / "learner.json").write_text(json.dumps({"sha256": body_digest(body), "state": body}))

    def put(self, part: str, change: Callable[[dict[str, Tensor]], None]) -> str:
        """Change the tensors of a part; the new name of its file."""
        old = self.folder / self.state["files"][part]["name"]
        tensors = load_file(old)
        change(tensors)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        name = f"{part.partition('-')[0]}-{digest[:16]}.safetensors"
        (self.folder / name).write_bytes(content)
        self.say(lambda body: body["files"].update({part: {"name": name, "sha256": digest}}))
        return name

    def load(self) -> Knowledge:
        directory = LearnerDirectory(self.folder)
        kept = directory.load()
        return restored(kept, settings(kept, None, directory), self.features, directory)

    def refusal(self, kind: type[EverclipError] = EverclipError) -> str:
        with pytest.raises(kind) as error:
            self.load()
        assert "\n" not in str(error.value)
        return str(error.value)


@pytest.fixture
def stranger(
    request: pytest.FixtureRequest, learners: dict[str, dict[str, bytes]], features: FrozenFeatures, tmp_path: Path
) -> Stranger:
    for name, content in learners[getattr(request, "param", "rail")].items():
        (tmp_path / name).write_bytes(content)
    return Stranger(tmp_path, features)


def of(method: str) -> Any:
    return pytest.mark.parametrize("stranger", [method], indirect=True)


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[new] = tensors.pop(old)

    return change


def replaced(name: str, with_: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = with_(tensors[name])

    return change


def test_an_honest_one_is_read(stranger: Stranger) -> None:
    stranger.put("working", lambda tensors: None)
    assert len(stranger.load().increments) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed("method.gram", "method.gran"), "'gram' is missing"),
        (renamed("statistics.sums", "sums"), "no place for tensor 'sums'"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "no place for tensor 'more'"),
        (lambda tensors: tensors.clear(), "is missing"),
        (replaced("method.rows", lambda t: t.double()), "'rows' is float64, not float32"),
        (replaced("method.rows", lambda t: t[:, :-1]), "'rows' has shape"),
        (replaced("method.labels", lambda t: t + 7), "not below 2"),
        (replaced("method.labels", lambda t: t[:-1]), "shape"),
        (replaced("method.counts", lambda t: 0 * t), "no image"),
        (replaced("method.gram", lambda t: t.fill_(float("nan"))), "not finite"),
        (replaced("method.sums", lambda t: t.fill_(1e300)), "far too large"),
        (replaced("held_out.embeddings", lambda t: t.fill_(float("inf"))), "not finite"),
        (replaced("held_out.labels", lambda t: t - 1), "below 0"),
        (replaced("statistics.counts", lambda t: -t), "below 0"),
        (replaced("statistics.gram", lambda t: 1e6 * t), "not those of"),
    ],
)
def test_a_tensor_that_is_not_what_the_method_needs(
    stranger: Stranger, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    name = stranger.put("increment-1", change)
    sentence = stranger.refusal()
    assert words in sentence
    assert f"{name} does not hold what method 'rail' needs" in sentence
    assert "learn anew" in sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed("weights", "weight"), "'weights' is missing"),
        (replaced("weights", lambda t: t[:, :0]), "of 0 classes, not 4"),
        (replaced("weights", lambda t: torch.cat([t, t], dim=1)), "of 8 classes, not 4"),
        (replaced("weights", lambda t: t[:-1]), "shape"),
        (replaced("mixture", lambda t: -t - 1), "below 0"),
        (replaced("ridge", lambda t: t[None]), "shape"),
        (lambda tensors: tensors.clear(), "missing"),
    ],
)
def test_a_solution_that_is_none(stranger: Stranger, change: Callable[[dict[str, Tensor]], None], words: str) -> None:
    name = stranger.put("working", change)
    assert words in (sentence := stranger.refusal())
    assert name in sentence


@of("moe-adapters")
@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("selector", renamed("0.centers", "0.center"), "'centers' is missing"),
        ("selector", renamed("1.scatter", "7.scatter"), "no place for tensor '7.scatter'"),
        ("selector", replaced("0.scatter", lambda t: -t), "selector 'gaussian'|images"),
        ("selector", replaced("0.held_out", lambda t: t[:0]), "empty"),
        ("selector", replaced("0.count", lambda t: 0 * t), "below 1"),
        ("working", replaced("towers.image.0.frozen_by", lambda t: torch.arange(10**6)), "shape|missing"),
        ("working", replaced("towers.image.0.frozen_by", lambda t: t + 5), "not below 2"),
        ("working", replaced("towers.image.0.hits", lambda t: t.float()), "float32, not int64"),
        ("increment-0", renamed(f"{ROUTER}0.gate", f"{ROUTER}9.gate"), "missing"),
        ("increment-0", replaced(f"{ROUTER}0.allowed", lambda t: t & False), "no expert at all"),
    ],
)  # fmt: skip
def test_experts_and_routes_that_are_none(
    stranger: Stranger, part: str, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    stranger.put(part, change)
    sentence = stranger.refusal()
    assert any(word in sentence for word in words.split("|"))


@of("lda")
def test_matrices_without_an_inverse_are_a_sentence_when_they_are_needed(stranger: Stranger) -> None:
    def upside_down(tensors: dict[str, Tensor]) -> None:
        for name in ("statistics.gram", "method.gram"):
            tensors[name] = -tensors[name]

    for part in ("increment-0", "increment-1"):
        stranger.put(part, upside_down)
    stranger.say(lambda body: body.pop("familiarity"))
    knowledge = stranger.load()
    with pytest.raises(EverclipError, match="learn anew"):
        knowledge.posterior(knowledge.question([]), torch.ones(1, 32), None)
    with pytest.raises(EverclipError):
        knowledge.without("task 0")


# -- what learner.json says --------------------------------------------------------------------------------------------


def named(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["files"]["working"].update(name=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (named("../../etc/passwd"), "'files.working.name'"),
        (named("/etc/passwd"), "'files.working.name'"),
        (named("working-0123456789abcdef.safetensors"), "not named by its SHA-256"),
        (named("working-0123456789abcdef.safetensors/../x"), "'files.working.name'"),
        (lambda body: body["files"].update(more=body["files"]["working"]), "no such part"),
        (lambda body: body["files"].update({"increment-0": body["files"]["working"]}), "can't be"),
        (lambda body: body["files"].pop("increment-1"), "no file for increment-1"),
        (lambda body: body.pop("increments"), "'increments'"),
        (lambda body: body["increments"].append(body["increments"][0]), "no file for increment-2"),
        (lambda body: body["increments"][0].update(known_as=[[0, 0]]), "known_as"),
        (lambda body: body["increments"][0].update(known_as=[[0, 0], [0, 0]]), "known_as"),
        (lambda body: body["increments"][0].update(known_as=[[1, 0], [1, 1]]), "label space"),
        (lambda body: body["increments"][0].update(known_as=[[10**30, 0], [0, 1]]), "known_as"),
        (lambda body: body["increments"][0].update(class_names=["red", "red"]), "two of one name"),
        (lambda body: body["increments"][0].update(class_names=["red", ""]), "empty name"),
        (lambda body: body["increments"][0].update(class_names=["red", "\ud800"]), "not valid text"),
        (lambda body: body["increments"][0].update(templates=["no place"]), "exactly one {}"),
        (lambda body: body["increments"][0].update(name="task 1"), "the same name"),
        (lambda body: body["increments"][0].update(accuracy={"task 0": 1e9}), "accuracy"),
        (lambda body: body["increments"][0].update(images="many"), "images"),
        (lambda body: body.update(familiarity=[1]), "familiarity"),
        (lambda body: body.update(backbone_digest="x\ny"), "backbone_digest"),
        (lambda body: body["settings"].pop("method"), "name no method"),
        (lambda body: body["settings"].update(method=3), "name no method"),
        (lambda body: body["settings"].update(method="os:system"), "names code by its place"),
        (lambda body: body["settings"].update(random_features=10**12), "random_features"),
        (lambda body: body["settings"].update(random_features=9), "shape"),
        (lambda body: body["settings"].update(ridge=[[[]]]), "ridge"),
        (lambda body: body["settings"].update(seed="0\x00"), "zero byte"),
        (lambda body: body["settings"].update(rate=1), "'rate'"),
    ],
)
def test_what_it_says_is_not_believed(stranger: Stranger, change: Callable[[dict[str, Any]], None], words: str) -> None:
    stranger.say(change)
    sentence = stranger.refusal()
    assert words in sentence
    assert str(stranger.folder) in sentence


@of("moe-adapters")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"experts": 10**9}, "lower one of them"),
        ({"bottleneck": 10**9}, "lower one of them"),
        ({"selector": "ddas", "features": "alexnet", "alexnet": "/dev/zero"}, "alexnet|no setting"),
        ({"selector": "oracle"}, "told the task|no setting"),
        ({"bottleneck": 3}, "shape"),
    ],
)
def test_settings_that_would_take_all_memory(stranger: Stranger, values: dict[str, Any], words: str) -> None:
    stranger.say(lambda body: body["settings"].update(values))
    sentence = stranger.refusal()
    assert any(word in sentence for word in words.split("|"))


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"\xff\xfe", b'{"sha256": NaN, "state": {}}', b"null", b'{"state": {}, "state": {}}'],
)
def test_what_is_no_learner_json(stranger: Stranger, content: bytes) -> None:
    (stranger.folder / "learner.json").write_bytes(content)
    assert "learner.json is damaged" in stranger.refusal()


def test_other_things_in_the_place_of_files(stranger: Stranger) -> None:
    name = stranger.state["files"]["working"]["name"]
    (stranger.folder / name).unlink()
    (stranger.folder / name).mkdir()
    assert f"{name} is damaged (it is a directory)" in stranger.refusal()
    (stranger.folder / name).rmdir()
    with open(stranger.folder / name, "wb") as file:
        file.truncate(10 << 30)
    assert f"{name} is damaged" in stranger.refusal()


def test_the_command_line_says_so_too(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    stranger.put("increment-0", renamed("method.rows", "method.row\x1b[31m"))
    (stranger.folder / "x.png").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(stranger.folder), str(stranger.folder / "x.png"), "--device", "cpu"])
    said = capsys.readouterr()
    assert end.value.code == 1
    assert "does not hold what method 'rail' needs" in said.err
    assert "Traceback" not in said.err
    assert "\x1b[31m" not in said.err


def test_a_setting_names_the_file_that_holds_it(stranger: Stranger) -> None:
    stranger.say(lambda body: body["settings"].update(beta=7))
    assert stranger.refusal(InputError).startswith(f"{stranger.folder / 'learner.json'}: beta=7 is not valid")
