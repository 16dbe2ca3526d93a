"""Plug-ins: found without being imported, refused in a sentence, never named by a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import everclip
from everclip.cli import main
from everclip.data.published import DATASETS
from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.recipes import read_recipe
from everclip.learner import Learner, LearnerDirectory
from everclip.methods import METHODS, Method, method_class
from everclip.methods.full_model import Finetune
from everclip.registry import REGISTRIES, Registry, is_place
from everclip.selectors import SELECTORS, Selector
from everclip.storage.run import RunDirectory
from everclip.streams import STREAMS, Protocol, StreamKind, open_stream

CODE = """
from everclip.methods.full_model import Finetune
from everclip.methods.moe_adapters import MoEAdapters
from everclip.methods.ridge import RanPAC
from everclip.selectors.prototype import Prototype
from everclip.streams import Dataset, StreamKind
from everclip.data import read_folder

class Tuned(Finetune):
    name, summary = "tuned", "finetuning by another name"

class Mixed(MoEAdapters):
    name, summary = "mixed", "experts by another name"

class Ridged(RanPAC):
    name, summary = "ridged", "RanPAC by another name"

class Near(Prototype):
    name, summary = "near", "prototypes by another name"

def _halves(names, protocol, root):
    folders = [read_folder(name, seed=0) for name in names]
    return [Dataset(each.name, each.class_names, each.templates, each.train, each.test) for each in folders]

halves = StreamKind("halves", _halves, scenario="class-incremental")
nothing = 3
"""

Package = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Installs a package: a module with this code, and entry points in groups of EverCLIP."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(module: str, code: str = CODE, version: str = "1.2", **points: dict[str, str]) -> Path:
        site = tmp_path / "site"
        info = site / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        lines = [
            line
            for group, named in points.items()
            for line in [f"[everclip.{group}]", *(f"{name} = {module}:{thing}" for name, thing in named.items())]
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        sys.modules.pop(module, None)
        monkeypatch.syspath_prepend(site)  # once more: what lies on the path is remembered by the path
        sys.path[:] = [*sys.path, str(tmp_path / f"marker-{module}")]
        return site

    return install


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    for registry in REGISTRIES.values():
        for name in set(registry._registered):
            registry.unregister(name)


def everclip_says(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


# -- installed packages ------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_known_without_being_imported(package: Package) -> None:
    package("brought", methods={"tuned": "Tuned"}, selectors={"near": "Near"}, streams={"halves": "halves"})
    assert "tuned" in METHODS
    assert "tuned" in list(METHODS)
    assert "brought" not in sys.modules
    assert method_class("finetune") is Finetune, "what EverCLIP brings is found without a look at plug-ins"
    assert "brought" not in sys.modules
    assert method_class("tuned").summary == "finetuning by another name"
    assert issubclass(SELECTORS["near"], Selector)
    assert STREAMS["halves"].scenario == "class-incremental"
    assert METHODS.origin("tuned") == "brought 1.2"


def test_a_plugin_that_fails_hurts_nothing_else(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    package("broken", "import a_module_that_nobody_has", methods={"shaky": "Tuned"})
    package("leaving", "raise SystemExit(3)", methods={"gone": "Tuned"})
    package("brought", methods={"tuned": "Tuned"})
    with pytest.raises(InputError, match=r"method 'shaky' of broken 1\.2 can't be imported .*a_module_that_nobody_has"):
        method_class("shaky")
    assert {"tuned", "finetune"} <= METHODS.usable().keys()
    status, out, err = everclip_says(capsys, "methods", "--json")
    assert status == 0
    listed = {entry["name"]: entry["from"] for entry in json.loads(out)}
    assert listed["tuned"] == "brought 1.2"
    assert listed["finetune"] == "everclip"
    assert "shaky" not in listed
    assert sum(line.startswith("everclip: method ") for line in err.splitlines()) == 2


def test_two_of_one_name_are_refused(package: Package) -> None:
    package("one", methods={"tuned": "Tuned"})
    package("other", methods={"tuned": "Tuned", "ridged": "Ridged"})
    with pytest.raises(InputError, match=r"'tuned' comes from one 1\.2 and other 1\.2; uninstall all but one"):
        method_class("tuned")
    assert method_class("ridged").name == "ridged"


def test_the_name_of_a_built_in_one_is_refused(package: Package) -> None:
    package("taker", CODE.replace('"tuned"', '"finetune"'), methods={"finetune": "Tuned"})
    assert method_class("finetune") is Finetune
    assert "taker 1.2 brings a method 'finetune'" in METHODS.problems()["finetune"]


@pytest.mark.parametrize(
    ("group", "name", "thing", "sentence"),
    [
        ("methods", "odd", "nothing", "'odd' is no method"),
        ("methods", "odd", "Tuned", "calls itself 'tuned'"),
        ("selectors", "odd", "Tuned", "'odd' is no selector"),
        ("streams", "odd", "Tuned", "'odd' is no kind of stream"),
        ("datasets", "odd", "nothing", "'odd' is no data set"),
    ],
)
def test_what_is_of_another_kind_is_refused(package: Package, group: str, name: str, thing: str, sentence: str) -> None:
    package("brought", **{group: {name: thing}})
    registry: Registry = {"methods": METHODS, "selectors": SELECTORS, "streams": STREAMS, "datasets": DATASETS}[group]
    with pytest.raises(InputError, match=sentence):
        registry.find(name)


def test_a_stream_of_a_plugin_says_itself_what_it_is(package: Package, two_folders: str) -> None:
    package("brought", streams={"halves": "halves"})
    stream = open_stream(two_folders.replace("folders:", "halves:"), Protocol())
    assert (stream.scenario, stream.name) == ("class-incremental", "halves:paint,cloth")


# -- scripts and notebooks ---------------------------------------------------------------------------------------------


def test_register_as_a_decorator() -> None:
    @everclip.register
    class Own(Finetune):
        name, summary = "own", "one of the notebook's"

    @everclip.register(name="second")
    class Other(Finetune):
        summary = "named by the decorator"

    assert method_class("own") is Own
    assert (method_class("second"), Other.name) == (Other, "second")
    assert METHODS.origin("own") == __name__
    kind = StreamKind("own-kind", lambda names, protocol, root: [])
    assert everclip.register(kind) is kind
    assert STREAMS.find("own-kind") is kind


def test_a_cell_may_run_twice_but_a_name_is_taken_once() -> None:
    def cell() -> type[Method]:
        class Own(Finetune):
            name, summary = "own", "one of the notebook's"

        return everclip.register(Own)

    cell()
    again = cell()
    assert method_class("own") is again

    class Another(Finetune):
        name, summary = "own", "another one"

    for taken in (Another, type("Stolen", (Finetune,), {"name": "rail", "summary": "…"})):
        with pytest.raises(InputError, match="already, of"):
            everclip.register(taken)


@pytest.mark.parametrize(
    ("thing", "name", "sentence"),
    [
        (3, "three", "none of what plug-ins can bring"),
        (Finetune, "a name", "can't be called"),
        (type("Nameless", (), {}), None, "has no name"),
    ],
)
def test_what_cannot_be_registered(thing: object, name: str | None, sentence: str) -> None:
    fresh = type("Fresh", (Finetune,), {}) if thing is Finetune else thing
    with pytest.raises(InputError, match=sentence):
        everclip.register(fresh, name)


# -- by place ----------------------------------------------------------------------------------------------------------


def test_a_class_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path, two_folders: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine_here.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_here", raising=False)
    common = ["--set", f"backbone={tiny_clip}", "--set", "iterations=2", "--set", "batch=4", "--set", "warmup=1"]
    line = ["run", "--stream", two_folders, "--out", str(tmp_path / "run"), *common]
    status, _, err = everclip_says(capsys, *line, "--method", "mine_here:Tuned", "--selector", "mine_here:Near")
    assert (status, "tuned") == (0, RunDirectory(tmp_path / "run").read_config()["method"]), err
    assert everclip_says(capsys, *line, "--method", "mine_here:Tuned", "--selector", "near", "--resume")[0] == 0
    METHODS.unregister("tuned")
    status, _, err = everclip_says(capsys, *line, "--method", "tuned", "--resume")
    assert status == 2
    assert "everclip --plugin package.module:NAME" in err
    status, _, _ = everclip_says(
        capsys, "--plugin", "mine_here:Tuned", "--plugin", "mine_here:Near", *line, "--method", "tuned", "--selector",
        "near", "--resume",
    )  # fmt: skip
    assert status == 0


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("no_such_module:Class", "can't be imported"),
        ("everclip.errors:Nothing", "has no 'Nothing'"),
        ("everclip.errors:InputError", "has no name"),
        ("everclip.errors", "not of the form"),
    ],
)
def test_a_place_that_is_none(capsys: pytest.CaptureFixture[str], place: str, sentence: str) -> None:
    status, _, err = everclip_says(capsys, "--plugin", place, "methods")
    assert status == 2
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_classes_in_python(tiny_clip: Path, paint: Path, tmp_path: Path, package: Package) -> None:
    package("brought")
    config = Config.of({"method": "brought:Tuned", "selector": "brought:Near", "stream": "drawn"})
    assert (config.setup.method, config.protocol.selector) == ("tuned", "near")
    assert Config.of({"method": method_class("tuned"), "stream": "drawn"}).setup.method == "tuned"
    learner = Learner.create(str(tiny_clip), "brought:Ridged", {"random_features": 16})
    learner.learn("paint", paint)
    learner.save(tmp_path / "model")
    METHODS.unregister("ridged")
    with pytest.raises(InputError, match=r"no method 'ridged'.*everclip\.register"):
        Learner.load(tmp_path / "model")
    everclip.register(sys.modules["brought"].Ridged)
    assert Learner.load(tmp_path / "model").tasks[0].name == "paint"


def test_no_file_decides_what_is_imported(tmp_path: Path, package: Package, tiny_clip: Path, paint: Path) -> None:
    """A recipe, the configuration of a run and a learner name code by its place: nothing is imported."""
    package("hostile", "raise AssertionError('imported')")
    for content in ({"method": "hostile:Tuned"}, {"methods": {"rail": {"selector": "hostile:Near"}}, "method": "rail"}):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content | {"stream": "drawn"}))
        with pytest.raises(InputError, match="which a file may not"):
            read_recipe(str(tmp_path / "recipe.yaml"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("method: hostile:Tuned\nstream: drawn\n")
    with pytest.raises(InputError, match="which a file may not"):
        RunDirectory(tmp_path / "run").read_config()
    learner = Learner.create(str(tiny_clip), "ncm")
    learner.learn("paint", paint)
    learner.save(tmp_path / "model")
    _forge(tmp_path / "model", '"ncm"', '"hostile:Tuned"')
    with pytest.raises(InputError, match="which a file may not"):
        Learner.load(tmp_path / "model")
    assert "hostile" not in sys.modules


def _forge(folder: Path, old: str, new: str) -> None:
    """Change the state of a learner, checksum included."""
    with LearnerDirectory(folder) as directory:
        directory.write_state(json.loads(json.dumps(directory.read_state()).replace(old, new)))


@pytest.mark.slow
def test_plugins_go_all_the_way(
    package: Package, tiny_clip: Path, two_folders: str, paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run by two processes, its judgment and comparison; a learner that is taught, asked and exported."""
    names = {"mixed": "Mixed", "ridged": "Ridged"}
    site = package("brought", methods=names, selectors={"near": "Near"}, streams={"halves": "halves"})
    stream, run = two_folders.replace("folders:", "halves:"), tmp_path / "run"
    steps = ["--set", "iterations=2", "--set", "batch=4", "--set", "warmup=1", "--set", "keep_stages=true"]
    line = ["run", "--stream", stream, "--method", "mixed", "--backbone", str(tiny_clip), "--out", str(run), *steps]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "everclip"]
    done = subprocess.run(
        [sys.executable, *launch, *line],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    model = str(tmp_path / "model")
    for command, said in (
        ([*line, "--resume"], "mixed"),
        (["judge", str(run), "--selector", "near", "--out", str(tmp_path / "judged")], "mixed"),
        (["compare", str(run), str(tmp_path / "judged"), "--mix"], "mixed"),
        (["learn", model, str(paint), "--method", "ridged", "--backbone", str(tiny_clip)], "paint"),
        (["predict", model, str(paint / "test"), "--json"], '"task": "paint"'),
        (["export", model, str(tmp_path / "answers.onnx")], "answers.onnx"),
    ):
        status, out, err = everclip_says(capsys, *command)
        assert status == 0, err
        assert said in out + err, command


@pytest.mark.parametrize("text", ["folders:a", "finetune", "a.b", "a:b:c", ":a", "a b:c", "a-b:c"])
def test_what_is_a_place(text: str) -> None:
    assert is_place(text) == (text == "folders:a")
    assert is_place("package.module:Class")
