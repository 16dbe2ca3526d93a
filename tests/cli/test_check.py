from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from everclip.cli import main
from everclip.learner import Learner

from .. import tiny


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tiny.image_folder(tmp_path / "paint", ["red", "green"])
    shutil.copy(next((folder / "train/red").iterdir()), folder / "train/green/copy.png")
    (folder / "train/red/film.mov").write_bytes(b"film")
    return folder


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    return end.value.code or 0, *capsys.readouterr()


def test_check_says_it_all_and_changes_nothing(
    album: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = Learner.create(str(tiny_clip), "zero-shot", device="cpu")
    learner.learn("birds", [(next((album / "test/red").iterdir()), name) for name in ("Red", "wren")])
    learner.save(tmp_path / "model")
    before = (tmp_path / "model/learner.json").read_bytes()
    code, out, err = call(capsys, "check", album, "--model", tmp_path / "model", "--html", tmp_path / "sheet.html")
    assert code == 0
    assert out.startswith(f"paint: 19 images of 2 classes ({album})\nread as: divided into test, train; ")
    for words in (
        "learn takes train, evaluate test",
        "1 file left out: 1 .mov",
        "more than once (1)",
        "as green and red",
    ):
        assert words in out
    assert re.search(r"red +6 +3 +birds", out)
    assert f"contact sheet: {tmp_path / 'sheet.html'}" in err
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    told = json.loads(call(capsys, "check", album, "--model", tmp_path / "model", "--json", "--decode")[1])
    assert told["known"] == {"green": [], "red": ["birds"]}
    assert told["left_out"] == {".mov": 1}
    assert [each["classes"] for each in told["copies"]] == [["green", "red"]]
    assert (told["decoded"], told["learned"]) == (True, "train")
    assert (tmp_path / "model/learner.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "cannot list the folder nowhere"),
        ([], "FOLDER"),
        (["ALBUM", "--model", "nowhere"], "holds no learner"),
        (["ALBUM", "--html", "ALBUM"], "is a folder; name a file"),
        (["ALBUM", "--html", "nowhere/sheet.html"], "nowhere"),
    ],
)
def test_refused(
    album: Path, args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "check", *(album if arg == "ALBUM" else arg for arg in args))
    assert code in (1, 2)
    assert out == ""
    assert words in err.splitlines()[-1]


def test_names_are_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.image_folder(tmp_path / "paint", ["red", "green"])
    (folder / "train/red").rename(folder / "train/re\x1b[31md")
    (folder / "train/green/bad\x1b[1m.png").write_bytes(b"words")
    (folder / "train/green/film.\x1b[2m").write_bytes(b"film")
    code, out, err = call(capsys, "check", folder)
    assert code == 0
    assert "\x1b" not in out + err
    assert "\\x1b[31m" in out
    assert "\\x1b[1m" in out
