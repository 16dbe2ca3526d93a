from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from everclip.config import Config
from everclip.errors import InputError
from everclip.methods import METHODS
from everclip.recipes import read_recipe, recipe_names


def test_the_package_has_recipes() -> None:
    assert {"demo", "development"} <= set(recipe_names())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_valid_configuration(name: str, method: str) -> None:
    recipe = read_recipe(name, method)
    values = {"stream": "drawn", "method": method, **recipe}
    if values["method"] == method:  # a recipe that names a method has settings of its own
        config = Config.of(values).flat()
        assert {key: config[key] for key in recipe} == recipe
        assert Config.of(config).flat() == config


def test_settings_of_one_method_are_for_that_method(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: joint\nlr: 1.0e-5\nmethods: {finetune: {lr: 0.5}, joint: {lr: 0.25, batch: 8}}\n")
    assert read_recipe(str(path)) == {"method": "joint", "lr": 0.25, "batch": 8}
    assert read_recipe(str(path), "finetune") == {"method": "joint", "lr": 0.5}
    assert read_recipe(str(path), "separate") == {"method": "joint", "lr": 1e-5}


def test_a_file_goes_before_a_recipe_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("method: finetune\n")
    assert read_recipe("demo") == {"method": "finetune"}


def test_a_recipe_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("stream: folders:größe\n", encoding="utf-8")
    assert read_recipe("~/mine.yaml") == {"stream": "folders:größe"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"method: [a", "line 1, column 9"),
        (b"method: a: b", "line 1"),
        (b"- finetune\n", "no settings"),
        (b"", "no settings"),
        (b"finetune", "no settings"),
        (b"methods: [finetune]", "settings by method"),
        (b"methods: {finetune: 3}", "settings by method"),
        (b"\x80\x81\x82", "can't be read"),
        (b"a: !!python/object/apply:os.getcwd []", "python/object"),
    ],
)
def test_what_is_no_recipe_is_one_sentence_with_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_recipe(str(path))
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: finetune\n")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        read_recipe(str(path))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "."])
def test_an_unknown_recipe_lists_those_there_are(name: str) -> None:
    with pytest.raises(InputError) as error:
        read_recipe(name)
    assert f"'{name}'" in str(error.value)
    assert ", ".join(recipe_names()) in str(error.value)


def test_recipes_hold_nothing_twice() -> None:
    """YAML keeps the last of two equal keys without a word."""
    folder = Path(__file__).parents[1] / "src/everclip/recipes"
    for path in folder.glob("*.yaml"):
        keys = [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]
        assert len(keys) == len(set(keys)), path.name
