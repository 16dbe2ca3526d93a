"""What the commands take for an image, and what of it they refuse."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from everclip.cli import main
from everclip.learner import Learner
from everclip.streams import Protocol, open_stream

from .. import tiny

SETTINGS = ("--set", "random_features=16")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.image_folder(tmp_path / "paint", ["red", "green"])


@pytest.fixture
def in_time() -> Iterator[None]:
    """A command that waits for ever fails its test, and does not stop all others."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def classes_below(root: Path) -> list[Path]:
    return sorted({path.parent for path in root.rglob("*.png")})


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
@pytest.mark.usefixtures("in_time")
def test_pipes_and_devices_are_named_and_skipped(
    folder: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for red in classes_below(folder):
        os.mkfifo(red / "pipe.jpg")
        (red / "device.png").symlink_to("/dev/zero")
    model, image = tmp_path / "model", next(folder.rglob("*.png"))

    def everclip(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        return end.value.code or 0, *capsys.readouterr()

    code, _, said = everclip("learn", model, folder, "--backbone", tiny_clip, *SETTINGS)
    assert code == 0
    assert "pipe.jpg: it is a pipe (FIFO), and only regular files are read" in said
    assert "device.png: it is a device, and only regular files are read" in said
    code, _, said = everclip("evaluate", model, folder)
    assert code == 0
    assert "a pipe (FIFO)" in said
    pipe = next(folder.rglob("pipe.jpg"))
    code, answers, said = everclip("predict", model, "/dev/zero", pipe, image)
    assert code == 1
    assert len(answers.splitlines()) == 1
    assert "/dev/zero: it is a device" in said
    assert "2 of 3 files can't be used" in said


def test_a_limit_of_pixels(folder: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = classes_below(folder)[-1] / "large.png"
    Image.new("RGB", (400, 300), "red").save(large)
    learner = Learner.create(str(tiny_clip), settings={"random_features": 16})
    report = learner.learn("all", folder)
    assert not report.skipped
    limited = learner.learn("some", folder, max_megapixels=0.1)
    assert [(Path(name).name, reason) for name, reason in limited.skipped] == [
        ("large.png", "the image has more than 0.1 megapixels; allow more, or make it smaller")
    ]
    assert report.images == limited.images + 1
    learner.save(tmp_path / "model")
    for limit, wanted in (("0.1", 1), ("0.12", 0)):
        with pytest.raises(SystemExit) as end:
            main(["predict", str(tmp_path / "model"), str(large), "--max-megapixels", limit])
        assert (end.value.code or 0) == wanted
    assert "more than 0.1 megapixels" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "model")
    command = ["learn", str(tmp_path / "model"), str(folder), "--backbone", str(tiny_clip), *SETTINGS]
    with pytest.raises(SystemExit) as end:
        main([*command, "--max-megapixels", "-3"])
    assert end.value.code == 2
    assert "max_megapixels is -3.0, but it must be a number above 0." in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def listed(folder: Path) -> Path:
    table = folder.with_suffix(".tsv")
    lines = [f"{path}\t{path.parent.name}\t{path.parent.parent.name}" for path in sorted(folder.rglob("*.png"))]
    table.write_text("\n".join(["wo\twas\tteil", *lines, "nowhere.png\t\ttrain"]))
    return table


def test_an_archive_and_a_table_stand_where_a_folder_can(
    folder: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def everclip(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        return end.value.code or 0, *capsys.readouterr()

    columns = ("--path-column", "wo", "--label-column", "was", "--part-column", "teil")
    said = {}
    for name, source, options in (
        ("folder", folder, ()),
        ("archive", zipped(folder), ()),
        ("table", listed(folder), columns),
    ):
        model = tmp_path / name
        code, told, err = everclip("learn", model, source, "--backbone", tiny_clip, *SETTINGS, *options)
        assert code == 0, err
        assert told.startswith("learned paint:")
        assert ("it has no label" in err) == (name == "table")
        code, judged, err = everclip("evaluate", model, source, *options)
        assert code == 0, err
        code, answers, err = everclip("predict", model, source, *options[:2])
        assert code == (1 if name == "table" else 0), err
        said[name] = judged, sorted(line.partition(".png: ")[2] for line in answers.splitlines())
    assert said["folder"] == said["archive"] == said["table"]
    code, _, err = everclip("learn", tmp_path / "other", listed(folder), "--backbone", tiny_clip, *SETTINGS)
    assert code == 2
    assert "--path-column: wo, was, teil" in err


def test_a_stream_of_an_archive_and_a_folder(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder).rename(folder.with_name("cloth.zip"))
    both = open_stream(f"folders:{archive},{folder}", Protocol())
    one, other = both.tasks
    assert one.info.class_names == other.info.class_names
    assert len(one.train) == len(other.train)
