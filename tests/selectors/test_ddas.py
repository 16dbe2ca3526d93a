"""DDAS against the recorded numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everclip.selectors.ddas import (
    DDAS,
    Autoencoder,
    DDASConfig,
    decayed,
    published_choice,
    reconstruction_error,
    train_autoencoder,
)
from everclip.streams import TaskInfo


def tasks(count: int) -> list[TaskInfo]:
    return [TaskInfo(index, f"task {index}", ("a",), ("{}",)) for index in range(count)]


def autoencoder(tensors: dict[str, Tensor], prefix: str) -> Autoencoder:
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    code, size = state["encoder.weight"].shape
    made = Autoencoder(size, code)
    made.load_state_dict(state)
    return made


@pytest.fixture
def errors(golden) -> Tensor:
    recorded = golden("ddas")
    count = golden.settings["ddas"]["autoencoders"]
    with torch.no_grad():
        columns = [reconstruction_error(autoencoder(recorded, f"ae{k}."), recorded["features"]) for k in range(count)]
    return torch.stack(columns, dim=1)


def test_errors_and_choices(golden, errors: Tensor) -> None:
    recorded = golden("ddas")
    torch.testing.assert_close(errors, recorded["error_per_sample"], rtol=1e-5, atol=1e-6)
    sizes = [int(name.split(".")[0].removeprefix("batch")) for name in recorded if name.endswith(".error")]
    assert sizes
    for size in sizes:
        batches = torch.stack([part.mean(dim=0) for part in errors.split(size)])
        torch.testing.assert_close(batches, recorded[f"batch{size}.error"], rtol=1e-5, atol=1e-6)
        for row, threshold in enumerate(recorded["thresholds"].tolist()):
            chosen = published_choice(batches, threshold)
            assert torch.equal(chosen, recorded[f"batch{size}.selected_task"][row])


def test_training(golden) -> None:
    recorded, settings = golden("ddas"), golden.settings["ddas"]["train"]
    learner = autoencoder(recorded, "train.start.")
    features, steps = recorded["train.features"], len(recorded["train.lr"])
    per_epoch = int(recorded["train.iterations_per_epoch"])
    rates = torch.tensor([decayed(step, settings["base_lr"], per_epoch) for step in range(steps)])
    torch.testing.assert_close(rates, recorded["train.lr"].float())
    batches = [features[step % len(features)] for step in range(steps)]
    losses = train_autoencoder(
        learner, batches, lambda step: decayed(step, settings["base_lr"], per_epoch), settings["adam_l2"]
    )
    torch.testing.assert_close(torch.tensor(losses), recorded["train.loss"].float(), rtol=1e-5, atol=1e-6)
    for name, value in learner.state_dict().items():
        torch.testing.assert_close(value, recorded[f"train.final.{name}"], rtol=1e-5, atol=1e-6)


def published(golden, threshold: float, reference: bool = True) -> DDAS:
    """The recorded autoencoders as a selector, on features that are not standardized."""
    recorded, count = golden("ddas"), golden.settings["ddas"]["autoencoders"]
    names = ["reference", *map(str, range(count - 1))]
    tensors = {}
    for k in range(0 if reference else 1, count):
        weights = autoencoder(recorded, f"ae{k}.").state_dict()
        tensors |= {f"{names[k]}.{name}": value for name, value in weights.items()}
    selector = DDAS(DDASConfig(ddas_rule="published", threshold=threshold))
    selector.load_state(tasks(count - 1), tensors)
    return selector


def test_the_published_rule_votes_as_published(golden) -> None:
    recorded = golden("ddas")
    features = recorded["features"]
    sizes = [int(name.split(".")[0].removeprefix("batch")) for name in recorded if name.endswith(".error")]
    for row, threshold in enumerate(recorded["thresholds"].tolist()):
        selector = published(golden, threshold)
        count = len(selector.tasks)
        for size in sizes:
            expected = recorded[f"batch{size}.selected_task"][row]
            expected = torch.where(expected < 0, count, expected).repeat_interleave(size)[: len(features)]
            p = selector.batch_probabilities(features, len(features), None, size)
            assert torch.equal(p, torch.eye(count + 1)[expected])
        alone = selector.probabilities(features, len(features), None)
        assert torch.equal(alone, selector.batch_probabilities(features, len(features), None, 1))


def test_the_published_rule_without_a_reference_has_its_threshold(golden, errors: Tensor) -> None:
    features = golden("ddas")["features"]
    own = errors[:, 1:]
    threshold = float(own.min(dim=1).values.median())
    p = published(golden, threshold, reference=False).probabilities(features, len(features), None)
    expected = torch.where(own.min(dim=1).values > threshold, own.shape[1], own.argmin(dim=1))
    assert torch.equal(p.argmax(dim=1), expected)
    assert set((expected == own.shape[1]).tolist()) == {False, True}


@pytest.mark.parametrize("rule", ["calibrated", "published"])
def test_held_out_images_are_kept_only_to_calibrate(rule: str) -> None:
    selector = DDAS(DDASConfig(ddas_rule=rule, ddas_iterations=2, reference_iterations=2))
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    selector.refer(images)
    selector.fit(tasks(1)[0], images + 3, torch.zeros(40), images[:9] + 3)
    kept = {name: len(tensor) for name, tensor in selector.state().items() if name.endswith("held_out")}
    assert kept == ({"0.held_out": 9, "reference.held_out": 4} if rule == "calibrated" else {})


def test_all_is_standardized_as_the_reference_is() -> None:
    selector = DDAS(DDASConfig(ddas_iterations=1, reference_iterations=1, ddas_rule="published"))
    images = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    selector.refer(2 * images + 5)
    for task in tasks(2):
        selector.fit(task, images, torch.zeros(50), None)
    for part in ("reference", "0", "1"):
        torch.testing.assert_close(selector.state()[f"{part}.center"], (2 * images + 5).mean(dim=0))
        torch.testing.assert_close(selector.state()[f"{part}.spread"], (2 * images).std(dim=0))
