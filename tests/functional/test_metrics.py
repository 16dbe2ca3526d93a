from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from everclip.functional import metrics

MEANS = [metrics.transfer, metrics.average, metrics.last]
CHANGES = [metrics.forgetting, metrics.backward_transfer]
matrices = st.integers(2, 6).flatmap(lambda k: arrays(float, (k, k), elements=st.floats(0, 100, width=32)))


def draw_correct(rows: int, sizes: list[int], seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.random((rows, n)) < generator.uniform(0.3, 0.9, (rows, 1)) for n in sizes]


def test_published_matrices_give_the_published_figures(golden):
    tensors = {name: tensor.numpy() for name, tensor in golden("metrics").items()}
    methods = [name.removesuffix(".accuracy") for name in tensors if name.endswith(".accuracy")]
    assert methods
    for method in methods:
        A = tensors[f"{method}.accuracy"]
        for name, ours in (
            ("transfer_per_dataset", metrics.transfer_per_dataset(A)[1:]),
            ("avg_per_dataset", metrics.average_per_dataset(A)),
            ("last_per_dataset", metrics.last_per_dataset(A)),
            ("transfer_avg_last", np.array([metric(A) for metric in MEANS])),
        ):
            np.testing.assert_allclose(ours, tensors[f"{method}.{name}"], atol=1e-4, err_msg=f"{method} {name}")


def test_a_matrix_small_enough_to_work_out_by_hand():
    A = [[80, 20, 30], [60, 90, 50], [70, 60, 95]]
    np.testing.assert_allclose(metrics.transfer_per_dataset(A), [np.nan, 20, 40])
    np.testing.assert_allclose(metrics.average_per_dataset(A), [70, 170 / 3, 175 / 3])
    np.testing.assert_allclose(metrics.forgetting_per_dataset(A), [10, 30, np.nan])
    np.testing.assert_allclose(metrics.backward_transfer_per_dataset(A), [-10, -30, np.nan])
    np.testing.assert_allclose([metric(A) for metric in MEANS + CHANGES], [30, 185 / 3, 75, 20, -20])
    np.testing.assert_allclose(metrics.incremental(A, [1, 1, 2]), [80, 75, (70 + 60 + 190) / 4])


@given(matrices)
def test_laws_that_hold_for_every_matrix(A):
    k = len(A)
    constant = np.full((k, k), A[0, 0])
    np.testing.assert_allclose([metric(constant) for metric in MEANS], A[0, 0], atol=1e-9)
    np.testing.assert_allclose([metric(constant) for metric in CHANGES], 0, atol=1e-9)
    # Forgetting is measured from the best moment, backward transfer from the moment of learning.
    assert metrics.forgetting(A) >= -metrics.backward_transfer(A) - 1e-9
    # A figure lies between the smallest and the largest entry, and grows with every entry.
    for metric in MEANS:
        assert A.min() - 1e-9 <= metric(A) <= A.max() + 1e-9
        assert metric(A + 1) == pytest.approx(metric(A) + 1)
    # Learned datasets do not enter Transfer; earlier rows do not enter Last.
    assert metrics.transfer(np.triu(A, 1)) == pytest.approx(metrics.transfer(A))
    assert metrics.last(A * (np.arange(k) == k - 1)[:, None]) == pytest.approx(metrics.last(A))
    # Leading axes are many matrices at once.
    for metric in MEANS + CHANGES:
        np.testing.assert_allclose(metric(np.stack([A, 2 * A])), [metric(A), metric(2 * A)], atol=1e-9)


@given(matrices)
def test_the_mask_restricts_the_mean_to_its_datasets(A):
    mask = np.arange(len(A)) % 2 == 1
    assert metrics.last(A, mask) == pytest.approx(A[-1, mask].mean())
    assert metrics.transfer(A, mask) == pytest.approx(metrics.transfer_per_dataset(A)[mask].mean())
    assert metrics.average(A, np.ones(len(A), dtype=bool)) == pytest.approx(metrics.average(A))
    assert np.isnan(metrics.average(A, np.zeros(len(A), dtype=bool)))


def test_only_figures_that_need_a_missing_row_are_missing():
    joint = np.full((3, 3), np.nan)
    joint[-1] = [70, 80, 90]
    assert metrics.last(joint) == 80
    assert np.isnan([metric(joint) for metric in (metrics.transfer, metrics.average, *CHANGES)]).all()
    # Datasets that were learned before the missing row do not need it for Transfer.
    late = np.full((3, 3), 50.0)
    late[1] = np.nan
    np.testing.assert_array_equal(metrics.transfer_per_dataset(late), [np.nan, 50, np.nan])


def test_a_single_task_has_neither_transfer_nor_forgetting():
    assert metrics.average([[60]]) == metrics.last([[60]]) == 60
    assert np.isnan([metrics.transfer([[60]]), metrics.forgetting([[60]]), metrics.backward_transfer([[60]])]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.last(np.zeros((2, 3))), "shape"),
        (lambda: metrics.last(np.zeros((2, 2)), [True]), "mask"),
        (lambda: metrics.last(np.zeros((2, 2)), [0, 1]), "boolean"),
        (lambda: metrics.incremental(np.zeros((2, 2)), [1]), "sizes"),
        (lambda: metrics.accuracy_matrix([np.zeros((2, 0))]), "dataset 0"),
        (lambda: metrics.accuracy_matrix([np.ones((2, 3)), np.ones((1, 3))]), "dataset 1"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_above_chance():
    assert metrics.above_chance([19.9, 20, 90], [10, 10, 50]).tolist() == [False, True, False]


def test_accuracy_matrix_counts_right_answers():
    A = metrics.accuracy_matrix([np.array([[True, False], [True, True]]), np.array([[0, 0, 1], [np.nan] * 3])])
    np.testing.assert_allclose(A, [[50, 100 / 3], [100, np.nan]])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_the_interval_contains_the_point_and_repeats(seed):
    correct = draw_correct(3, [60, 90, 40], seed)
    for metric in MEANS + CHANGES[1:]:  # the maximum in forgetting is biased under resampling
        low, high = metrics.paired_bootstrap(correct, metric, samples=300)
        assert low < metric(metrics.accuracy_matrix(correct)) < high
        assert (low, high) == metrics.paired_bootstrap(correct, metric, samples=300)


def test_the_interval_has_the_width_of_the_binomial_and_shrinks_with_the_images():
    widths = []
    for n in (100, 1600):
        low, high = metrics.paired_bootstrap([np.arange(n)[None] % 2 == 0], metrics.last)
        widths.append(high - low)
        assert high - low == pytest.approx(2 * 1.96 * 50 / np.sqrt(n), rel=0.15)
    assert widths[1] < widths[0] / 3


def test_rows_stay_paired():
    # Rows that are right on the same images change nothing between them, whatever images are drawn.
    same = [np.repeat(rows[:1], 3, axis=0) for rows in draw_correct(1, [50, 70, 30])]
    assert metrics.paired_bootstrap(same, metrics.backward_transfer) == (0, 0)


def test_the_difference_to_another_method_is_paired():
    ours = draw_correct(3, [200, 300, 100])
    assert metrics.paired_bootstrap(ours, metrics.average, other=ours) == (0, 0)
    worse = [rows & (np.arange(rows.shape[1]) % 10 > 0) for rows in ours]
    low, high = metrics.paired_bootstrap(ours, metrics.average, other=worse)
    alone = metrics.paired_bootstrap(ours, metrics.average)
    assert 0 < low < high
    assert high - low < alone[1] - alone[0]


def test_an_unmeasured_row_leaves_the_other_figures():
    correct = [rows.astype(float) for rows in draw_correct(3, [50, 50, 50])]
    for rows in correct:
        rows[:2] = np.nan
    assert np.isnan(metrics.paired_bootstrap(correct, metrics.average)).all()
    assert not np.isnan(metrics.paired_bootstrap(correct, metrics.last)).any()
    mask = np.array([True, False, True])
    assert not np.isnan(metrics.paired_bootstrap(correct, partial(metrics.last, datasets=mask))).any()


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilsons_interval_is_scipys(count, share, level):
    hits = round(share * count)
    expected = binomtest(hits, count).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(metrics.wilson_interval(hits, count, level), expected, atol=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_wilsons_interval_refuses_what_is_no_share(hits, count):
    with pytest.raises(ValueError, match="no share"):
        metrics.wilson_interval(hits, count)
