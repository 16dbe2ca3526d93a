"""`everclip verify`: what it names, what it prints where, and its exit status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from everclip.data.cache import embedding_cache
from everclip.learner import Learner

from ..recorded import lay_out
from .test_cli import Answer, Everclip
from .test_cli import everclip as everclip


@pytest.fixture(scope="module")
def model(tiny_clip: Path, paint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "model"
    learner = Learner.create(str(tiny_clip), "lda", device="cpu")
    learner.learn("paint", paint)
    learner.save(folder)
    return folder


@pytest.fixture
def verified(everclip: Everclip, model: Path, tmp_path: Path) -> Callable[..., Answer]:
    """Verify a copy of the learner after some damage."""

    def verify(damage: Callable[[Path], object], *options: str) -> Answer:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(model, tmp_path / "model")
        damage(tmp_path / "model")
        return everclip("verify", tmp_path / "model", *options)

    return verify


def tensors(model: Path) -> Path:
    return sorted(model.glob("increment-*"))[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_learner_that_is_sound(verified: Callable[..., Answer], tmp_path: Path) -> None:
    answer = verified(lambda model: (model / "README.md").write_text("edited"))
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{tmp_path / 'model'}: learner directory, 3 files are as they were written.\n"


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("which", [tensors, lambda model: model / "learner.json"])
def test_a_damaged_file_is_a_line(
    verified: Callable[..., Answer], which: Callable[[Path], Path], damage: Callable[[Path], object]
) -> None:
    answer = verified(lambda model: damage(which(model)))
    (line,) = answer.out.splitlines()
    assert line.endswith("put it back from a copy or learn anew in another folder.")
    assert ("increment-" if which is tensors else "learner.json") in line
    assert answer.code == 1
    assert answer.err.startswith("everclip: 1 of the ")


def test_every_file_as_json(verified: Callable[..., Answer]) -> None:
    answer = verified(lambda model: flip(tensors(model)), "--json")
    said = json.loads(answer.out)
    assert said["kind"] == "learner directory"
    assert [file["problem"] is None for file in said["files"]].count(False) == 1
    assert {"learner.json"} < {file["name"] for file in said["files"]}
    assert answer.code == 1


def test_a_run_of_an_earlier_version_is_verified_as_far_as_it_can_be(everclip: Everclip, tmp_path: Path) -> None:
    lay_out(tmp_path, "rail")
    answer = everclip("verify", tmp_path / "rail")
    assert answer.code == 0
    assert "wrote no digest of config.yaml, matrix.csv, results.json, events.jsonl: nobody can tell." in answer.out
    flip(tmp_path / "rail/evaluation/after-00.safetensors")
    answer = everclip("verify", tmp_path / "rail")
    assert answer.code == 1
    assert "after-00.safetensors is damaged" in answer.out


def test_the_cache_is_looked_through(everclip: Everclip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path))
    for key in ("one", "two"):
        embedding_cache(key, lambda: np.ones((5, 3), np.float32))
    assert everclip("verify", tmp_path).out == f"{tmp_path}: cache, 2 files are as they were written.\n"
    flip(tmp_path / "embeddings/one.npy")
    answer = everclip("verify", tmp_path)
    (line,) = answer.out.splitlines()
    assert line.startswith(f"{tmp_path / 'embeddings/one.npy'}: ")
    assert line.endswith("it is computed again when it is next needed.")
    assert answer.code == 1
    assert answer.err == f"everclip: 1 of the 2 files of the cache {tmp_path} are not as written.\n"


def test_what_is_neither_is_refused(everclip: Everclip, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        answer = everclip("verify", path)
        assert answer.code == 2
        assert answer.sentence.startswith(f"everclip: {path} holds neither")
