from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everclip.errors import InputError
from measure_learner import balanced, calibration_error, main


def test_answers_that_are_right_as_often_as_they_say_have_no_error() -> None:
    sure = np.repeat([0.2, 0.5, 0.9], 1000)
    right = np.tile(np.arange(10), 300) < 10 * sure
    assert calibration_error(sure, right) == pytest.approx(0, abs=0.5)
    assert calibration_error(np.full(300, 0.9), np.arange(300) % 2 == 0) == pytest.approx(40)


def test_balanced_rows_are_half_known() -> None:
    known = np.array([True] * 7 + [False] * 3)
    rows = balanced(known)
    assert known[rows].mean() == 0.5
    assert set(rows) == set(range(10))


def test_it_measures_what_a_learner_knows_and_what_not(
    tiny_clip: Path, two_folders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (Path(path) for path in two_folders.removeprefix("folders:").split(","))
    main([one], [other], "ncm", str(tiny_clip))
    printed = capsys.readouterr().out
    assert "ncm on" in printed
    assert "for 1 tasks" in printed
    assert "AUROC" in printed
    with pytest.raises(InputError, match="no method 'none'"):
        main([one], [other], "none", str(tiny_clip))
