"""A table of the page on results is what was measured, and nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import results
from everclip.errors import EverclipError, InputError

RECORD: dict[str, Any] = {
    "command": "everclip run --stream S --method METHOD --seed SEED",
    "seeds": [0, 1],
    "hardware": "one core",
    "commit": "abc1234",
    "rows": {
        "one": [{"task": {"transfer": 10.0, "average": 20.0, "last": 30.0}},
                {"task": {"transfer": 12.0, "average": 20.0, "last": 31.0}}],
        "other": [{"task": {"transfer": None, "average": None, "last": 9.96}}] * 2,
    },
}  # fmt: skip
NAME = next(iter(results.PARTS))
PAGE = f"before\n\n<!-- table: {NAME} -->\nold\n<!-- end -->\n\nafter\n"


def test_the_page_is_what_rendering_gives() -> None:
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.rendered(page, results.stored()) == page, "python tools/results.py --render rewrites it"
    assert results.TABLE.findall(page)


def test_every_record_says_what_was_run() -> None:
    for name, record in results.stored().items():
        part = results.PARTS[name]
        assert record["command"] == part.command
        assert record["seeds"] == list(part.seeds)
        assert list(record["rows"]) == list(part.methods)
        assert all(len(seeds) == len(part.seeds) for seeds in record["rows"].values())
        assert record["hardware"]
        assert record["commit"]


def test_a_table_is_written_between_its_marks() -> None:
    page = results.rendered(PAGE, {NAME: RECORD})
    assert page.startswith(f"before\n\n<!-- table: {NAME} -->\n")
    assert page.endswith("<!-- end -->\n\nafter\n")
    assert "old" not in page
    assert "\n    everclip run --stream S --method METHOD --seed SEED\n" in page
    assert "Seeds 0, 1; mean ± deviation. Hardware: one core. Commit abc1234." in page
    assert "| `one` | 11.0 ± 1.4 / 20.0 ± 0.0 / 30.5 ± 0.7 |" in page
    assert "| `other` | – / – / 10.0 ± 0.0 |" in page
    assert results.rendered(page, {NAME: RECORD}) == page


@pytest.mark.parametrize(
    ("page", "records", "said"),
    [
        (PAGE.replace("<!-- end -->", ""), {NAME: RECORD}, "no partner"),
        (f"<!-- end -->\n{PAGE}", {NAME: RECORD}, "no partner"),
        (PAGE.replace("old", f"<!-- table: {NAME} -->"), {NAME: RECORD}, "no partner"),
        (PAGE.replace(NAME, "nothing"), {NAME: RECORD}, "'nothing', which is no part"),
        (PAGE, {}, "which is not measured"),
        ("no mark at all", {NAME: RECORD}, f"nothing on the page shows '{NAME}'"),
    ],
)
def test_a_page_that_does_not_fit_is_refused(page: str, records: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        results.rendered(page, records)


def test_one_seed_has_no_deviation() -> None:
    assert results.over_seeds([12.345]) == "12.3"
    assert results.over_seeds([None]) == "–"


def test_wrong_requests_are_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match=f"no part 'none'; choose from .*{NAME}"):
        results.main(["none"])
    with pytest.raises(InputError, match="leave --part and --write out"):
        results.main([NAME], render=True)


def test_code_that_no_commit_holds_gives_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_git", lambda *words: " M src/everclip/errors.py\n")
    with pytest.raises(InputError, match=r"errors\.py is changed but not committed"):
        results.main([NAME], write=True)


@pytest.mark.slow
def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    part = results.Part(
        "everclip run --stream drawn:nowhere --method METHOD --seed SEED", ("ncm",), (0,), results.by_candidates, str
    )
    with pytest.raises(EverclipError, match="no drawn domain 'nowhere'"):
        part.measure(tmp_path)


@pytest.mark.slow
def test_a_part_is_measured_kept_and_shown(
    tiny_clip: Path, two_folders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = f"everclip run --stream '{two_folders}' --backbone '{tiny_clip}' --method METHOD --seed SEED"
    part = results.Part(command, ("ncm",), (0,), results.by_candidates, results.headline_by_candidates)
    page = tmp_path / "results.md"
    page.write_text("<!-- table: tried -->\n<!-- end -->\n", encoding="utf-8")
    for name, value in {"PARTS": {"tried": part}, "PAGE": page, "STORED": tmp_path}.items():
        monkeypatch.setattr(results, name, value)
    monkeypatch.setattr(results, "_git", lambda *words: "" if "status" in words else "abc1234\n")
    results.main(["tried"], write=True, runs=tmp_path / "runs")
    kept = json.loads((tmp_path / "tried.json").read_text(encoding="utf-8"))
    ran = json.loads((tmp_path / "runs/tried/ncm-0/results.json").read_text(encoding="utf-8"))
    assert kept["rows"]["ncm"][0]["task"]["last"] == round(ran["by_candidates"]["task"]["last"], 2)
    shown = page.read_text(encoding="utf-8")
    assert f"{ran['by_candidates']['task']['last']:.1f}" in shown
    assert "| `ncm` |" in capsys.readouterr().out
    page.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"results\.md has no place for 'tried'"):
        results.main(["tried"], write=True)


def test_the_commit_is_the_last_one_that_changed_the_code() -> None:
    named = subprocess.run(["git", "-C", str(results.ROOT), "cat-file", "-t", results.commit()], capture_output=True)
    assert named.stdout.strip() == b"commit"
    assert "one thread" in results.hardware()
