"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand

# Everything that imports torch is imported inside the commands: `everclip --help` answers at once.
from everclip._version import __version__
from everclip.cli import learner, serve, verify
from everclip.cli.check import check
from everclip.cli.data import data_app
from everclip.cli.options import AsJson, DeviceOption, Setting, given, path_argument, path_option
from everclip.errors import EverclipError
from everclip.registry import Registry, entered, from_place
from everclip.system.display import Display, printed, replace_unprintable, say, say_json, visible
from everclip.system.memory import collector_held, keep_freed_memory
from everclip.system.paths import home_for_libraries, portable_path
from everclip.system.stopping import STOPS, end_in_time

if TYPE_CHECKING:
    from everclip.experiment.config import Config

app = typer.Typer(
    name="everclip",
    help="Teach a CLIP model task after task: without the old data, without forgetting, without losing zero-shot.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(data_app, name="data")

UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)
"""What typer raises for a command line that it cannot parse; it gives the class no public name of its own."""

# What `run` and `judge` share.
SelectorOption = Annotated[str | None, typer.Option(help="One of `everclip selectors`, or package.module:Class.")]
CandidatesOption = Annotated[
    str | None, typer.Option(help="task · seen · all: which classes an image is scored against.")
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also tell tensorboard, wandb (offline) or package.module:Class; repeatable."),
]
WorkersOption = Annotated[str | None, typer.Option(metavar="N", help="Threads that decode and augment images.")]


class _Stopped(BaseException):
    """A signal asks the process to end. Not a KeyboardInterrupt: typer would answer that by itself, without a word."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_status = 128 + number


class _Working(TyperCommand):
    """A command that imports torch, once its command line is parsed."""

    def invoke(self, ctx: Any) -> Any:
        if "everclip.learner" not in sys.modules:
            with collector_held():
                importlib.import_module("everclip.learner")
        return super().invoke(ctx)


@app.callback(invoke_without_command=True)
def _everclip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="package.module:NAME of a method, selector, stream, data set or callback that is not installed.",
        ),
    ] = None,
) -> None:
    if version:
        say(f"everclip {__version__}")
        raise typer.Exit
    for place in plugin or ():
        from_place(place)
    if context.invoked_subcommand is None:
        say(context.get_help())


@app.command(cls=_Working)
def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe: a YAML file, or the name of one in the package.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="folders:DIR1,… · cil:DIR:STEPS · drawn[:NAME,…] · embeddings:A.npz,… · mtil-1, … (see docs)."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="One of `everclip methods`, or package.module:Class.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="embedded · ARCH/TAG · ARCH/FILE · hf-hub:ORG/NAME · a folder.")
    ] = None,
    selector: SelectorOption = None,
    candidates: CandidatesOption = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Seed of everything random.")] = None,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="float32 · bf16")] = None,
    workers: WorkersOption = None,
    out: Annotated[Path | None, path_option("Run directory; by default below ./runs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, say what would be learned, learn nothing.")
    ] = False,
    track: TrackOption = None,
    settings: Setting = None,
) -> None:
    """Learn a stream with a method and judge it after every task."""
    from everclip.experiment import config
    from everclip.experiment.recipes import read_recipe

    options = {
        "stream": stream, "method": method, "backbone": backbone, "selector": selector, "candidates": candidates,
        "seed": seed, "device": device, "precision": precision, "workers": workers,
    }  # fmt: skip
    chosen = entered(given({name: value for name, value in options.items() if value is not None}, settings or []))
    values = read_recipe(recipe, chosen.get("method")) if recipe else {}
    configuration = config.Config.of(config.layered(values, chosen))
    out = out or config.default_directory(configuration)
    if dry_run:
        from everclip.experiment.plan import plan
        from everclip.experiment.trackers import callbacks_of

        callbacks_of(track or ())  # refused now as it would be then
        printed(plan(configuration, out, Display()).table())
        return
    _perform(configuration, out, resume, track)


@app.command(cls=_Working)
def judge(
    learned: Annotated[Path, path_argument("RUN", "A finished run, made with --set keep_stages=true.")],
    selector: SelectorOption = None,
    candidates: CandidatesOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    out: Annotated[Path | None, path_option("Run directory of the judgment; by default beside RUN.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the judgment that --out holds.")] = False,
    track: TrackOption = None,
    settings: Setting = None,
) -> None:
    """Judge again what a run learned, with another selector or routing, without training.

    Where its data or its backbone lie elsewhere by now, say where: --set stream=folders:NEW/A,NEW/B --set backbone=NEW.
    """
    from everclip.experiment.learned import judgment

    options = {"selector": selector, "candidates": candidates, "device": device, "workers": workers}
    changes = given({name: value for name, value in options.items() if value is not None}, settings or [])
    configuration = judgment(learned, changes)
    protocol = configuration.protocol
    learned = learned.resolve()  # "." and "runs/.." have a name too
    out = out or portable_path(learned.with_name(f"{learned.name}-{protocol.selector}-{protocol.routing}"))
    _perform(configuration, out, resume, track)


def _perform(configuration: Config, out: Path, resume: bool, track: list[str] | None) -> None:
    """Run an experiment and show its figures; of several processes the main one shows them."""
    from everclip.experiment import runner
    from everclip.report import compare as side_by_side
    from everclip.system.processes import is_main

    display = Display()
    runner.run(configuration, out, resume, display, callbacks=track or ())
    if is_main():
        printed(side_by_side([out]).table())
        display.note(f"report: {out / 'report.html'}")


@app.command("demo", cls=_Working)
def _demo(
    out: Annotated[Path, path_option("Where the runs go.")] = Path("runs/demo"),
) -> None:
    """Run a small continual-learning story on drawn images, with the CLIP of the package."""
    from everclip.cli import demo as story

    display = Display()
    comparison = story.run(out, display)
    printed(comparison.table())
    display.note(f"reports: {', '.join(str(path) for path in story.reports(out))}")


@app.command()
def compare(
    runs: Annotated[list[Path], path_argument(None, "Run directories.")],
    candidates: Annotated[str | None, typer.Option(help="task · seen · all; by default that of the runs.")] = None,
    mix: Annotated[bool, typer.Option("--mix", help="Compare runs of different protocols all the same.")] = False,
    published: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="Among the rows of one of `everclip published`.")
    ] = None,
    costs: Annotated[
        bool, typer.Option("--costs", help="Also what a task costs: numbers trained, seconds, bytes kept.")
    ] = False,
    csv: Annotated[Path | None, path_option("Write the table as CSV.")] = None,
    latex: Annotated[Path | None, path_option("Write the table as LaTeX.")] = None,
    plot: Annotated[Path | None, path_option("Draw the comparison (.png, .svg or .pdf).")] = None,
) -> None:
    """Put finished runs side by side; refuses to mix protocols unless told."""
    from everclip.report import compare as side_by_side

    comparison = side_by_side(runs, candidates, mix, published, costs)
    for table in (*comparison.tables_by_dataset(), comparison.table()):
        printed(table)
    if costs:
        printed(comparison.table_of_costs())
    comparison.save(csv=csv, latex=latex, plot=plot)


@app.command()
def published(
    benchmark: Annotated[
        str | None, typer.Argument(help="mtil-1, xtail-1, cifar100-10, …; all of them by name.")
    ] = None,
) -> None:
    """List the published rows of a benchmark, best first, or the benchmarks."""
    from everclip.report.published import overview, read_benchmark

    printed(read_benchmark(benchmark).table() if benchmark else overview())


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods."""
    from everclip.methods import METHODS

    _catalog(
        METHODS,
        as_json,
        ("summary", "paper", "routed", "upper_bound", "reads", "requires", "promises", "forgets", "defaults"),
    )


@app.command()
def selectors(as_json: AsJson = False) -> None:
    """List the selectors, which decide which task an image belongs to."""
    from everclip.selectors import SELECTORS

    _catalog(SELECTORS, as_json, ("summary", "upper_bound"))


for command in (
    learner.learn, check, learner.predict, learner.show, learner.forget, learner.evaluate,
    learner.export, serve.serve, verify.verify,
):  # fmt: skip
    app.command(cls=_Working)(command)


def _catalog(registry: Registry[Any], as_json: bool, fields: tuple[str, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    for problem in registry.problems().values():
        say(f"everclip: {problem}", error=True)
    if as_json:
        entries = []
        for name, kind in registry.usable().items():
            entry: dict[str, Any] = {"name": name, "from": registry.origin(name)}
            for field in fields:
                value = getattr(kind, field)
                entry[field] = sorted(value) if isinstance(value, frozenset) else value
            properties = kind.Config.model_json_schema().get("properties", {})
            entry["settings"] = {
                k: {n: v[n] for n in ("default", "description") if n in v} for k, v in properties.items()
            }
            entries.append(entry)
        say_json(entries, indent=1)
        return
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, kind in registry.usable().items():
        # What it does, and under it where it comes from: two columns of sentences would leave neither enough room.
        table.add_row(Text(name, style="bold"), Text(kind.summary))
        if paper := getattr(kind, "paper", ""):
            table.add_row("", Text(paper, style="dim"))
        if (origin := registry.origin(name)) != "everclip":
            table.add_row("", Text(f"from {origin}", style="dim"))
    printed(table)


def main(args: list[str] | None = None) -> NoReturn:
    """Run a command line; whatever goes wrong outside the program becomes one sentence and an exit status.

    Args:
        args: what follows the program's name; by default that of the process.

    Raises:
        SystemExit: always. 0: done, 1: it failed while working, 2: the request is wrong, 128 + N: stopped by signal N.
    """
    message = ""
    keep_freed_memory()
    replace_unprintable()
    try:
        with _signals_raise(own_process=args is None), home_for_libraries():
            status = app(args, prog_name="everclip", standalone_mode=False)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "everclip"
        message, status = f"{error.format_message().rstrip('.')}; see {command} --help.", 2
    except EverclipError as error:
        message, status = str(error), error.exit_code
    except OSError as error:
        message, status = (
            f"the system refused: {error}; put that right, then give the command again (run with --resume).",
            1,
        )
    except _Stopped as stop:
        message = f"stopped by {stop.name}; what was done is kept: give the command again (run with --resume) to go on."
        status = stop.exit_status
    if message:
        say(f"everclip: {visible(message)}", error=True)
    if args is None:
        gc.freeze()  # the process ends: no need to search for what could be freed
    sys.exit(status)


@contextlib.contextmanager
def _signals_raise(own_process: bool) -> Iterator[None]:
    """Ctrl-C and a plain `kill` leave by the front door: the bar is cleared, the lock goes, a sentence is printed.

    What does not get to that door in time leaves all the same, if the process is ours to end.
    """

    def stop(number: int, frame: object) -> NoReturn:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    if own_process:
        end_in_time(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
