from __future__ import annotations

from pathlib import Path

import pytest

from everclip.data import read_texts
from everclip.errors import InputError


def test_one_text_per_line(tmp_path: Path):
    file = tmp_path / "captions.txt"
    file.write_bytes("\ufeffa dog\r\n\n  größe  \r\n\t\na dog".encode())
    assert read_texts(file) == ("a dog", "größe", "a dog")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no text"), (b" \n\n", "holds no text"), (b"fine\nalso fine\n\xff\n", "not UTF-8 (line 3)")],
)
def test_a_file_without_texts_is_one_sentence(tmp_path: Path, content: bytes, words: str):
    file = tmp_path / "captions.txt"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_texts(file)
    assert words in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.txt", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path / name)
