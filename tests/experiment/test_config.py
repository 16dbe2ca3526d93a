from __future__ import annotations

from pathlib import Path

import pytest

from everclip.engine.recipe import TrainingConfig
from everclip.errors import InputError
from everclip.experiment.config import Config, Setup, default_directory
from everclip.experiment.runner import run
from everclip.methods import METHODS
from everclip.selectors import SELECTORS
from everclip.streams import Protocol

NEEDED = {"method": "finetune", "stream": "folders:a,b"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("selector", SELECTORS)
def test_round_trip(method: str, selector: str):
    config = Config.of({"method": method, "stream": "folders:a", "selector": selector, "seed": 4, "lr": [1e-3, 2e-3]})
    flat = config.flat()
    assert Config.of(flat) == config
    assert Config.of(flat).flat() == flat
    assert flat["lr"] == [1e-3, 2e-3]
    assert flat["seed"] == 4
    sections = (Setup, Protocol, TrainingConfig, METHODS[method].Config, SELECTORS[selector].Config)
    assert set(flat) == {name for section in sections for name in section.model_fields}


def test_a_stream_may_have_a_protocol_of_its_own():
    birds = {"method": "finetune", "stream": "cil:birds:10"}
    assert Config.of(birds).protocol.candidates == "seen"
    assert Config.of(birds | {"candidates": "all"}).protocol.candidates == "all"
    assert Config.of(NEEDED).protocol.candidates == "task"


def refused(values: dict) -> str:
    with pytest.raises(InputError) as error:
        Config.of(values)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("nothing", [{}, {"method": ""}])
def test_a_method_is_needed(nothing: dict):
    assert "--method" in refused({"stream": "folders:a,b"} | nothing)


@pytest.mark.parametrize("nothing", [{}, {"stream": ""}, {"stream": None}])
def test_a_stream_is_needed_unless_a_program_gives_one(nothing: dict, tmp_path: Path):
    config = Config.of({"method": "finetune"} | nothing)
    assert config.setup.stream is None
    for use in (lambda: run(config, tmp_path / "run"), lambda: default_directory(config)):
        with pytest.raises(InputError, match=r"no stream is given; name one with --stream .* out, stream="):
            use()
    assert not (tmp_path / "run").exists()


def test_unknown_name_lists_the_valid_ones():
    message = refused(NEEDED | {"itertions": 3})
    assert message.startswith("'itertions' is no setting of method 'finetune'; valid are: ")
    for name in ("iterations", "label_smoothing", "candidates", "backbone"):
        assert name in message


def test_setting_of_another_method_is_refused():
    assert "no setting of method 'zero-shot'" in refused(NEEDED | {"method": "zero-shot", "label_smoothing": 0.1})


@pytest.mark.parametrize(("name", "registry"), [("method", METHODS), ("selector", SELECTORS)])
def test_unknown_choice_lists_the_registry(name: str, registry: dict):
    message = refused(NEEDED | {name: "nonsense"})
    assert "nonsense" in message
    assert all(each in message for each in registry)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("iterations", 0, "greater than or equal to 1"),
        ("iterations", "many", "integer"),
        ("iterations", 1.5, "integer"),
        ("shots", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("validation", 1, "less than 1"),
        ("candidates", "some", "'task', 'seen' or 'all'"),
        ("routing", "vote", "'sample' or 'batch'"),
        ("precision", "fp16", "'float32' or 'bf16'"),
        ("lr", "fast", "number"),
        ("lr", [1e-3, "fast"], "number"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("optimizer", "adam", "'adamw' or 'sgd'"),
        ("schedule", "step", "'cosine', 'linear' or 'constant'"),
        ("momentum", 1, "less than 1"),
        ("clip_norm", 0, "greater than 0"),
        ("accumulate", 0, "greater than or equal to 1"),
        ("log_every", 0, "greater than or equal to 1"),
        ("label_smoothing", 1, "less than 1"),
        ("workers", 0, "greater than or equal to 1"),
    ],
)
def test_bad_value_is_repeated_with_what_is_valid(name: str, value: object, hint: str):
    message = refused(NEEDED | {name: value})
    assert message.startswith(f"{name}={value} is not valid: ")
    assert hint in message


@pytest.mark.parametrize("lr", [0, -1e-3, "nan", "inf", [1e-3, -1e-3], []])
def test_learning_rates_must_be_positive_numbers(lr: object):
    assert refused(NEEDED | {"lr": lr}).startswith(f"lr={lr} is not valid: ")


def test_numbers_given_as_text():
    """YAML reads `1e-3` as text, and so does a command line."""
    config = Config.of(NEEDED | {"lr": "1e-3", "iterations": "20", "shots": "5", "validation": "0.2"})
    assert config.training.lr == 1e-3
    assert config.training.iterations == 20
    assert (config.protocol.shots, config.protocol.validation) == (5, 0.2)
    assert Config.of(NEEDED | {"lr": ["1e-3", "2e-3"]}).training.lr == [1e-3, 2e-3]


@pytest.mark.parametrize("name", METHODS)
def test_defaults_of_a_method(name: str):
    defaults = METHODS[name].defaults
    values = NEEDED | {"method": name}
    flat = Config.of(values).flat()
    for setting, value in (TrainingConfig().model_dump() | Protocol().model_dump()).items():
        assert flat[setting] == defaults.get(setting, value)
    assert set(defaults) <= set(flat)
    assert Config.of(values | {"lr": 0.125}).training.lr == 0.125


def test_configuration_is_frozen():
    config = Config.of(NEEDED)
    with pytest.raises(ValueError, match="frozen"):
        config.training.iterations = 3


def test_default_directory():
    config = Config.of(NEEDED | {"stream": "folders:/data/my photos,b", "seed": 2})
    assert default_directory(config) == Path("runs/folders-my-photos-b/finetune-seed2")
    long = Config.of(NEEDED | {"stream": "folders:" + "x" * 300})
    assert len(default_directory(long).parts[1]) == 80


def test_a_setting_that_an_older_run_lacks_had_its_default():
    config = Config.of(NEEDED)
    added = ("schedule", "optimizer", "momentum", "clip_norm", "accumulate", "log_every")
    old = {name: value for name, value in config.flat().items() if name not in added}
    assert list(config.differing(old)) == []
    other = Config.of(NEEDED | {"optimizer": "sgd", "log_every": 3, "seed": 1})
    assert list(other.differing(old)) == [("seed", 0, 1), ("optimizer", "adamw", "sgd")]
    assert list(config.differing(other.flat())) == [("seed", 1, 0), ("optimizer", "sgd", "adamw")]
