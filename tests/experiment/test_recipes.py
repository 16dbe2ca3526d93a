from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from everclip.engine.recipe import TrainingConfig
from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.plan import plan
from everclip.experiment.recipes import read_recipe, recipe_names
from everclip.methods import METHODS, method_class
from everclip.selectors import selector_class
from everclip.selectors.scored import ScoredConfig
from everclip.streams import GROUPS, stream_defaults

from .. import miniatures, tiny

BASELINES = ("finetune", "lwf", "lwf-vr", "icarl")
PUBLISHED = {
    "moe-mtil": ("moe-adapters",),
    "moe-mtil-5shot": ("moe-adapters",),
    "moe-xtail": ("moe-adapters",),
    "moe-cil": ("moe-adapters",),
    "zscl-mtil": ("zscl", "wc", "wise-ft", *BASELINES),
    "zscl-mtil-5shot": ("zscl",),
    "zscl-xtail": ("zscl", "lwf", "wise-ft"),
    "zscl-cil": ("zscl", *BASELINES),
    "rail-xtail": ("rail", "rail-dual"),
    "rail-mtil-5shot": ("rail", "rail-dual"),
    "ranpac-cil": ("ranpac",),
}
"""The recipes of published settings, and the methods they are for."""


def test_the_package_has_recipes() -> None:
    assert {"demo", "development", *PUBLISHED} == set(recipe_names())


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


# -- published settings ------------------------------------------------------------------------------------------------


def configured(name: str, method: str) -> Config:
    return Config.of({**read_recipe(name, method), "method": method})


@pytest.mark.parametrize(("name", "method"), [(name, method) for name, each in PUBLISHED.items() for method in each])
def test_a_published_setting_leaves_nothing_to_defaults(name: str, method: str) -> None:
    """A default may change; what was published does not. The protocol is the stream's."""
    written, kind = set(read_recipe(name, method)), method_class(method)
    wanted = {"stream", "backbone", *kind.Config.model_fields}
    if kind.trains:
        wanted |= set(TrainingConfig.model_fields) - {
            "checkpoint_every",
            "log_every",
            "accumulate",
            "iterations",
            "epochs",
        }
        wanted -= {"momentum"}  # of no matter to AdamW
        assert written & {"iterations", "epochs"}
    if kind.routed and not read_recipe(name, method).get("shared_router"):
        calibration = set(ScoredConfig.model_fields)  # of no matter to the published rule
        selector = selector_class(read_recipe(name, method)["selector"])
        wanted |= {"selector", "routing", *set(selector.Config.model_fields) - calibration}
    growth = {"new_experts", "lead"}  # of no matter to a fixed number of experts
    assert wanted - written - growth == set()
    assert stream_defaults(configured(name, method).setup.stream), "a published stream"


def test_settings_that_were_published() -> None:
    moe, few, cil = (configured(name, "moe-adapters") for name in ("moe-mtil", "moe-mtil-5shot", "moe-cil"))
    assert list(moe.training.lr.values()) == [5e-3, 1e-3, 5e-3, 1e-3, 1e-4, 1e-3, 1e-3, 1e-4, 1e-3, 1e-3, 1e-3]
    assert list(few.training.lr.values()) == [8e-3, 5e-4, 2e-4, 5e-3, 1e-3, 1e-3, 1e-2, 1e-4, 1e-2, 1e-2, 1e-2]
    assert list(moe.training.lr) == list(few.training.lr) == list(GROUPS["mtil"])
    assert (moe.training.iterations, few.training.iterations, cil.training.epochs) == (1000, 500, 1)
    assert (moe.protocol.shots, few.protocol.shots) == (None, 5)
    assert (few.selector_settings.threshold, few.selector_settings.ddas_lr) == (0.0585, 0.003)
    assert (few.settings, few.protocol.routing, few.protocol.selector) == (moe.settings, "batch", "ddas")
    assert (cil.settings.experts, cil.settings.label_smoothing) == (2, 0)
    zscl, steps = configured("zscl-mtil", "zscl"), configured("zscl-cil", "zscl")
    assert {name: rate for name, rate in zscl.training.lr.items() if rate != 1e-5} == {"aircraft": 5e-5, "mnist": 5e-5}
    assert (steps.settings.kd_image_weight, steps.settings.consolidation, steps.settings.average_every) == (5, 0, 10)
    assert steps.settings.kd_temperature == zscl.settings.kd_temperature == 2
    assert configured("zscl-cil", "icarl").settings.exemplars == 5000
    xtail = configured("moe-xtail", "moe-adapters").protocol
    assert (xtail.shots, xtail.splits, xtail.candidates, xtail.templates) == (16, "coop", "all", "first")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Miniatures of the data sets that the recipes name."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        miniatures.without_md5(patch)
        for name in GROUPS["mtil"]:
            miniatures.write(name, folder)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_is_ready_to_learn(
    name: str, root: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniatures.without_md5(monkeypatch)
    for method in PUBLISHED[name]:
        values = {**read_recipe(name, method), "method": method, "backbone": str(tiny_clip), "root": str(root)}
        if method in ("zscl", "moe-adapters"):
            values["reference"] = str(tiny.image_folder(tmp_path / method, ["red"], train=2, test=1))
        if values.get("features") == "alexnet":
            values["alexnet"] = str(tmp_path / "alexnet.pth")
            torch.save(tiny.alexnet_weights(), values["alexnet"])
        if "splits" in values:
            values["splits"] = "torchvision"  # the files of CoOp are no part of the miniatures
        planned = plan(Config.of(values), tmp_path / "run")
        stream = values["stream"]
        assert planned.protocol["stream"] == stream
        assert len(planned.lessons) == {"mtil-1": 11, "xtail-1": 10, "cifar100-10": 10}[stream]
        trains = method_class(method).trains
        assert all((lesson.steps is not None and lesson.steps > 0) == trains for lesson in planned.lessons)


def test_rates_follow_the_data_sets_into_another_order(
    root: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniatures.without_md5(monkeypatch)
    values = {**read_recipe("zscl-mtil", "wc"), "method": "wc", "stream": "mtil-2", "root": str(root)}
    planned = plan(Config.of({**values, "backbone": str(tiny_clip)}), tmp_path / "run")
    assert [lesson.task for lesson in planned.lessons if lesson.lr == 5e-5] == ["mnist", "aircraft"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_recipe_on_top_of_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: zscl-cil\nstream: cil:birds:5\niterations: 7\nmethods: {lwf: {batch: 8}}\n")
    theirs = read_recipe("zscl-cil")
    changed = {name: value for name, value in theirs.items() if name != "epochs"}
    assert read_recipe(str(path)) == {**changed, "stream": "cil:birds:5", "iterations": 7}
    lwf = read_recipe(str(path), "lwf")
    assert (lwf["batch"], lwf["kd_image_weight"], lwf["method"]) == (8, 1, "zscl")
    assert "average_every" not in lwf


@pytest.mark.parametrize("base", ["nowhere", "mine.yaml", "[moe-mtil]", "3"])
def test_a_base_is_a_recipe_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"base: {base}\n")
    with pytest.raises(InputError, match=r"recipe mine.yaml: its base .* is not one of: demo, development, moe-cil"):
        read_recipe("mine.yaml")


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
    folder = Path(__file__).parents[2] / "src/everclip/experiment/recipes"
    for path in folder.glob("*.yaml"):
        keys = [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]
        assert len(keys) == len(set(keys)), path.name
