"""Distillation and operations on weights, against the recorded numbers and their laws."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from everclip.functional.distillation import RunningAverage, assign, distillation, interpolated, snapshot, weight_drift


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("direction", ["image", "text"])
def test_golden_distillation(golden, case: str, direction: str):
    recorded = golden("zscl")
    temperatures = [m[1] for name in recorded if (m := re.fullmatch(rf"kd\.{case}\.T(.+)\.loss_image_direction", name))]
    assert temperatures
    for temperature in temperatures:
        teacher = recorded[f"kd.{case}.teacher_logits"]
        student = recorded[f"kd.{case}.student_logits"].requires_grad_()
        turn = (lambda logits: logits) if direction == "image" else (lambda logits: logits.T)
        loss = distillation(turn(teacher), turn(student), float(temperature))
        (gradient,) = torch.autograd.grad(loss, student)
        close(loss.detach(), recorded[f"kd.{case}.T{temperature}.loss_{direction}_direction"].squeeze())
        close(gradient, recorded[f"kd.{case}.T{temperature}.grad_{direction}_direction"], 1e-6)


@given(st.integers(1, 6), st.integers(2, 6), st.floats(0.5, 10))
def test_the_teacher_itself_is_the_best_student(rows: int, columns: int, temperature: float):
    teacher = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    student = (teacher + 3).requires_grad_()  # a softmax does not see the shift
    loss = distillation(teacher, student, temperature)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher), rtol=0, atol=1e-5 * temperature)
    assert distillation(teacher, teacher.flip(1), temperature) >= loss.detach() - 1e-4 * temperature**2


def test_no_gradient_for_the_teacher():
    teacher = torch.randn(3, 4, requires_grad=True)
    assert distillation(teacher, torch.randn(3, 4, requires_grad=True), 2.0).requires_grad
    assert not distillation(teacher, torch.randn(3, 4), 2.0).requires_grad


def snapshots(recorded: dict[str, Tensor]) -> list[list[Tensor]]:
    count = sum(re.fullmatch(r"snapshot\.\d+\.a", name) is not None for name in recorded)
    return [[recorded[f"snapshot.{n}.{name}"] for name in "ab"] for n in range(count)]


def test_golden_running_average(golden):
    recorded = golden("weight_ops")
    start, *others = snapshots(recorded)
    average = RunningAverage(start)
    for number, weights in enumerate(others, 1):
        average.add(weights)
        assert average.count == number
        for tensor, name in zip(average.tensors, "ab", strict=True):
            close(tensor, recorded[f"average_after.{number}.{name}"], 1e-6)
    for tensor, untouched in zip(start, snapshots(recorded)[0], strict=True):
        assert torch.equal(tensor, untouched)


def test_golden_interpolation(golden):
    recorded = golden("weight_ops")
    _, first, second, third, *_ = snapshots(recorded)
    mixed = interpolated(second, first, 3 / 4)
    for tensor, name in zip(interpolated(mixed, third, 0.98), "ab", strict=True):
        close(tensor, recorded[f"averaged_then_interpolated.{name}"], 1e-6)


def test_golden_weight_drift(golden):
    recorded = golden("weight_ops")
    start, after, *_ = snapshots(recorded)
    close(weight_drift(after, start), recorded["l2_1_0"].squeeze(), 1e-6)


def test_drift_pulls_back():
    anchors = [torch.ones(3, 4), torch.zeros(5)]
    weights = [torch.randn_like(anchor, requires_grad=True) for anchor in anchors]
    weight_drift(weights, anchors).backward()
    for weight, anchor in zip(weights, anchors, strict=True):
        close(weight.grad, 2 * (weight.detach() - anchor))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_average_is_the_mean_of_all(values: list[float]):
    average = RunningAverage([torch.tensor([values[0]])])
    for value in values[1:]:
        average.add([torch.tensor([value])])
    close(average.tensors[0], torch.tensor([sum(values) / len(values)]), 1e-5)


def test_interpolation_ends_at_either_side():
    old, new = [torch.randn(3)], [torch.randn(3)]
    assert torch.equal(interpolated(new, old, 1.0)[0], new[0])
    assert torch.equal(interpolated(new, old, 0.0)[0], old[0])


def test_a_snapshot_is_not_changed_by_what_follows():
    weights = [torch.nn.Parameter(torch.randn(3))]
    before = snapshot(weights)
    assign(weights, [torch.zeros(3)])
    assert torch.equal(weights[0], torch.zeros(3))
    assert before[0].abs().sum() > 0
    assert not before[0].requires_grad
