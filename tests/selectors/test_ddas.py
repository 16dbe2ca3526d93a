"""DDAS against the recorded numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everclip.selectors.ddas import (
    Autoencoder,
    decayed,
    published_choice,
    reconstruction_error,
    train_autoencoder,
)


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
