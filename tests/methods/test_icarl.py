"""The memory of iCaRL: what is in it, that it stays flat, and that nothing else of earlier tasks is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from everclip.backbone.features import embed_images
from everclip.backbone.prompts import class_tokens
from everclip.data import Images
from everclip.errors import InputError
from everclip.functional.herding import herd
from everclip.methods.icarl import ICaRL, first_of_each_class
from everclip.streams import TaskInfo
from everclip.testing.lessons import Lessons, begin, learn, new_method, recipe


def live(lessons: Lessons, **settings) -> tuple[ICaRL, list[dict]]:
    """Learn both tasks, and write down which images it asked for."""
    method = new_method(ICaRL, lessons, **settings)
    asked: list[dict] = []

    def views(rows: Mapping[TaskInfo, Sequence[int] | None]) -> Images:
        asked.append({info.name: chosen for info, chosen in rows.items()})
        return lessons.sources.views(rows)

    method.provide(replace(lessons.sources, views=views))
    for sets in lessons.stages(method):
        learn(method, sets, recipe(iterations=3))
    return method, asked


def test_memory_stays_flat(lessons: Lessons):
    """Three classes share the budget after the first task, five after the second."""
    method = new_method(ICaRL, lessons, exemplars=11)
    learn(method, lessons.training[:1], recipe(iterations=3))
    (after_first,) = method.memory
    assert after_first[:, 1].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    learn(method, lessons.training[1:], recipe(iterations=3))
    assert [memory[:, 1].tolist() for memory in method.memory] == [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1]]
    assert torch.equal(method.memory[0], after_first[[0, 1, 3, 4, 6, 7]]), "the first ones by herding stay"


def test_exemplars_are_chosen_by_herding_on_the_model_of_the_day(lessons: Lessons):
    method = new_method(ICaRL, lessons, exemplars=9)
    learn(method, lessons.training[:1], recipe(iterations=3))
    views = lessons.sources.views({lessons.infos[0]: None})
    features = embed_images(views, method.student.encode_image, lessons.backbone)
    for label in range(3):
        of_class = (torch.from_numpy(views.labels) == label).nonzero().flatten()
        rows = method.memory[0][method.memory[0][:, 1] == label, 0]
        assert torch.equal(rows, of_class[herd(features[of_class], 3)])


def test_of_an_earlier_task_only_exemplars_are_looked_at(lessons: Lessons):
    method, asked = live(lessons, exemplars=9)
    first, second = (info.name for info in lessons.infos)
    assert [sorted(rows) for rows in asked] == [[first], [first], [second]]
    assert asked[0][first] is None
    assert len(asked[1][first]) == 9
    assert set(asked[1][first]) >= set(method.memory[0][:, 0].tolist())


def test_no_image_is_stored(lessons: Lessons):
    method, _ = live(lessons, exemplars=9)
    kept = {name: value for name, value in method.working_state().items() if name.startswith("memory.")}
    assert set(method.working_state()) - set(kept) == set(method.student.state_dict())
    assert all(value.dtype == torch.int64 for value in kept.values())
    assert sum(value.numel() for value in kept.values()) <= 2 * 9


@pytest.mark.parametrize("teacher", ["previous", "pretrained"])
def test_the_teacher_and_its_classes(lessons: Lessons, teacher: str):
    method = new_method(ICaRL, lessons, exemplars=9, teacher=teacher)
    learn(method, lessons.training[:1], recipe(iterations=3))
    before = method.student.clone().eval()
    begin(method, lessons.training[1:])
    asked, classes = (before, lessons.infos[0]) if teacher == "previous" else (lessons.backbone, lessons.infos[1])
    images = embed_images(method.reference, asked.encode_image, asked)
    torch.testing.assert_close(method._taught_images, torch.nn.functional.normalize(images, dim=-1))
    tokens = class_tokens(lessons.backbone, classes.class_names, classes.templates[:1])[:, 0]
    assert torch.equal(method._tokens, tokens)


def test_the_first_task_distils_nothing(lessons: Lessons):
    method = new_method(ICaRL, lessons)
    begin(method, lessons.training[:1])
    assert method.reference is None


def test_fewer_exemplars_than_classes_are_refused(lessons: Lessons):
    method = new_method(ICaRL, lessons, exemplars=4)
    learn(method, lessons.training[:1], recipe(iterations=1))
    with pytest.raises(InputError, match=r"exemplars=4 leaves none .* 5 classes .*'cloth'; set exemplars=50"):
        begin(method, lessons.training[1:])


def test_first_of_each_class():
    exemplars = torch.tensor([[7, 0], [3, 0], [9, 2], [1, 2], [4, 2], [0, 5]])
    assert first_of_each_class(exemplars, 2)[:, 0].tolist() == [7, 3, 9, 1, 0]
    assert torch.equal(first_of_each_class(exemplars, 5), exemplars)
