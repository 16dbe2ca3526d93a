"""What a method is given from files is held against what it needs before it is restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everclip.backbone import Backbone
from everclip.methods import METHODS, Method, load_checked
from everclip.storage.tensors import MisfitError
from everclip.streams import TaskInfo

TASK = TaskInfo(0, "paint", ("red", "green"), ("a photo of {}.",))
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def backbone(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip), torch.device("cpu"))


def made(name: str, backbone: Backbone) -> Method:
    return METHODS[name](backbone, METHODS[name].Config())


def state(name: str, backbone: Backbone) -> Tensors:
    return {key: tensor.clone() for key, tensor in made(name, backbone).working_state().items()}


@pytest.mark.parametrize("name", ["finetune", "icarl", "zscl", "linear-adapter", "attention-adapter", "prompt-tuning"])
def test_its_own_state_is_taken(name: str, backbone: Backbone) -> None:
    load_checked(made(name, backbone), [TASK], [], state(name, backbone))


def retyped(tensors: Tensors, key: str) -> None:
    tensors[key] = tensors[key].double()


def filled(tensors: Tensors, key: str) -> None:
    tensors[key] = torch.full_like(tensors[key], float("nan"))


def cut(tensors: Tensors, key: str) -> None:
    tensors[key] = tensors[key][:-1]


def renamed(tensors: Tensors, key: str) -> None:
    tensors[key + "x"] = tensors.pop(key)


@pytest.mark.parametrize("change", [retyped, filled, cut, renamed])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("finetune", "model.positional_embedding"),
        ("linear-adapter", "adapter.bias"),
        ("attention-adapter", "adapter.query.weight"),
        ("prompt-tuning", "adapter.vectors"),
    ],
)
def test_other_tensors_are_refused(
    name: str, key: str, change: Callable[[Tensors, str], None], backbone: Backbone
) -> None:
    working = state(name, backbone)
    if key not in working:
        key = next(found for found in working if found.startswith(key.partition(".")[0]))
    change(working, key)
    with pytest.raises(MisfitError) as error:
        load_checked(made(name, backbone), [TASK], [], working)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("icarl", {"memory.0": torch.zeros(3, 2)}, "float32, not int64"),
        ("icarl", {"memory.0": torch.zeros(3, 3, dtype=torch.int64)}, "shape"),
        ("icarl", {"memory.1": torch.zeros(3, 2, dtype=torch.int64)}, "memory.0"),
        ("zscl", {"average.count": torch.tensor(0)}, "average"),
        ("zscl", {"average.count": torch.tensor(3)}, "average"),
        ("attention-adapter", {"replay.columns": torch.tensor([5])}, "not below 2"),
        ("attention-adapter", {"replay.features": torch.ones(2, 3, 4), "replay.columns": torch.tensor([0])}, "shape"),
        ("linear-adapter", {"before.bias": torch.ones(1)}, "before"),
        ("linear-adapter", {"more.bias": torch.ones(1)}, "no place for tensor 'more.bias'"),
    ],
)
def test_what_is_kept_beside_the_weights(name: str, more: Tensors, words: str, backbone: Backbone) -> None:
    with pytest.raises(MisfitError, match=words):
        load_checked(made(name, backbone), [TASK], [], state(name, backbone) | more)


def test_a_plug_in_that_checks_nothing_ends_in_the_same_sentence(backbone: Backbone) -> None:
    class Careless(Method):
        name, summary = "careless", "believes what it is given"

        def load_state(self, tasks: list[TaskInfo], sealed: list[Tensors], working: Tensors) -> None:
            self.kept = working["kept"]

    method = Careless(backbone, Careless.Config())
    load_checked(method, [], [], {"kept": torch.ones(1)})
    with pytest.raises(MisfitError, match="KeyError: 'kept'"):
        load_checked(method, [], [], {})
    with pytest.raises(MisfitError, match="not finite"):
        load_checked(method, [], [], {"kept": torch.tensor(float("inf"))})
