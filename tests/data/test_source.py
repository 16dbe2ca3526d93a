from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from everclip.data.source import BadImage, ImageSource, Joined, Reduced, few_shot, split
from everclip.errors import InputError

some_labels = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=np.int64))


class Counted(ImageSource):
    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        return f"image {index}"

    def digest(self, index: int) -> str:
        return f"{index:032x}"

    def decode(self, index: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (index, 0, 0))


def test_a_selection_forwards_everything():
    chosen = Counted([4, 5, 6, 7]).select([3, 1])
    assert len(chosen) == 2
    assert chosen.labels.tolist() == [7, 5]
    assert chosen.name(0) == "image 3"
    assert chosen.digest(1) == f"{1:032x}"
    assert chosen.decode(0).getpixel((0, 0)) == (3, 0, 0)


def test_selections_nest_without_a_chain():
    source = Counted([0, 1, 2, 3, 4])
    inner = source.select(np.array([4, 2, 0])).select([True, False, True])
    assert inner.labels.tolist() == [4, 0]
    assert inner.name(1) == "image 0"
    assert inner._source is source


def test_joined_sources_follow_one_another():
    first, second = Counted([4, 5]), Counted([4, 6, 7])
    joined = Joined([first, Counted([]), second.select([2, 0])])
    assert joined.labels.tolist() == [4, 5, 7, 4]
    assert [joined.name(i) for i in range(4)] == ["image 0", "image 1", "image 2", "image 0"]
    assert joined.digest(2) == second.digest(2)
    assert joined.decode(3).getpixel((0, 0)) == (0, 0, 0)
    assert joined.select([1, 2]).name(1) == "image 2"


def test_an_empty_selection_and_an_index_outside():
    source = Counted([0, 1])
    assert len(source.select([])) == 0
    with pytest.raises(IndexError):
        source.select([2])


def test_a_bad_image_says_its_name_and_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "the file is empty")))
    assert str(error) == "a.jpg: the file is empty"
    assert (error.name, error.reason) == ("a.jpg", "the file is empty")


@given(some_labels, st.floats(0, 0.99), st.integers(0, 3))
def test_split_is_stratified_and_complete(labels, fraction, seed):
    kept, held_out = split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held_out) > 0)
    for label in np.unique(labels):
        size, out = np.sum(labels == label), np.sum(labels[held_out] == label)
        assert out < size
        assert abs(out - size * fraction) <= 1
        assert out >= 1 or fraction == 0 or size == 1


def test_split_depends_on_the_seed_only():
    labels = np.repeat(np.arange(3), 20)
    assert np.array_equal(split(labels, 0.3, 1)[1], split(Counted(labels.tolist()), 0.3, 1)[1])
    assert not np.array_equal(split(labels, 0.3, 1)[1], split(labels, 0.3, 2)[1])


def test_the_draw_of_a_class_ignores_the_size_of_others():
    alone = np.repeat([0, 1], [10, 10])
    crowded = np.repeat([0, 1], [500, 10])
    for draw in (lambda labels: split(labels, 0.4, 7)[1], lambda labels: few_shot(labels, 4, 7)):
        first, second = draw(alone), draw(crowded)
        assert np.array_equal(first[alone[first] == 1] - 10, second[crowded[second] == 1] - 500)


@given(some_labels, st.integers(1, 20), st.integers(0, 3))
def test_few_shot_counts_and_nests(labels, shots, seed):
    chosen = few_shot(labels, shots, seed)
    assert np.all(np.diff(chosen) > 0)
    assert np.array_equal(np.bincount(labels[chosen], minlength=6), np.minimum(np.bincount(labels, minlength=6), shots))
    assert set(chosen) <= set(few_shot(labels, shots + 1, seed))


def test_draws_from_nothing_are_empty():
    nothing = np.empty(0, dtype=np.int64)
    assert [len(part) for part in split(nothing, 0.5, 0)] == [0, 0]
    assert len(few_shot(nothing, 2, 0)) == 0


def test_draws_refuse_what_is_out_of_range():
    labels = np.zeros(4, dtype=np.int64)
    with pytest.raises(InputError, match=r"fraction is 1\.0"):
        split(labels, 1.0, 0)
    with pytest.raises(InputError, match="seed is -1"):
        split(labels, 0.5, -1)
    with pytest.raises(InputError, match="shots is 0"):
        few_shot(labels, 0, 0)


def test_reduced_images_all_have_one_resolution():
    class Striped(Counted):
        def decode(self, index: int) -> Image.Image:
            fine = np.indices((90, 120)).sum(axis=0) % 2 * 255
            return Image.fromarray(fine.astype(np.uint8)).convert("RGB")

    source = Striped([3, 1])
    small = Reduced(source, 30)
    assert small.decode(0).size == (40, 30)
    assert small.labels.tolist() == [3, 1]
    assert small.name(1) == "image 1"
    assert len({source.digest(0), small.digest(0), Reduced(source, 31).digest(0)}) == 3
    assert Reduced(Counted([0]), 30).decode(0).size == (30, 30), "small images are enlarged"
    values = np.asarray(small.decode(0).resize((120, 90)))
    assert np.ptp(values) < 30, "the stripes are gone for good"
