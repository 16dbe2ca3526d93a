"""The command line: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

# Everything that imports torch is imported inside the commands: `everclip --help` answers at once.
from everclip.errors import EverclipError, InputError

app = typer.Typer(
    name="everclip",
    help="Teach a CLIP model task after task: without the old data, without forgetting, without losing zero-shot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Setting = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads this annotation)
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any other setting, for example --set iterations=60 --set lr=1e-3."
    ),
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe: a YAML file, or the name of one in the package.")] = "",
    stream: Annotated[str, typer.Option(help="folders:DIR1,DIR2,… · drawn[:NAME,…] · embeddings:A.npz,…")] = "",
    method: Annotated[str, typer.Option(help="One of `everclip methods`.")] = "",
    backbone: Annotated[str, typer.Option(help="embedded · ARCH/TAG · ARCH/FILE · hf-hub:ORG/NAME · a folder.")] = "",
    selector: Annotated[str, typer.Option(help="One of `everclip selectors`.")] = "",
    candidates: Annotated[str, typer.Option(help="task · seen · all: which classes an image is scored against.")] = "",
    seed: Annotated[Optional[int], typer.Option(help="Seed of everything random.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="auto · cpu · cuda · …")] = "",
    precision: Annotated[str, typer.Option(help="float32 · bf16")] = "",
    workers: Annotated[Optional[int], typer.Option(help="Threads that decode and augment images.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Run directory; by default below ./runs.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")] = False,
    settings: Setting = None,
) -> None:
    """Learn a stream with a method and judge it after every task."""
    from everclip import config, experiment
    from everclip.display import Display
    from everclip.recipes import read_recipe
    from everclip.report import compare as side_by_side

    given = {
        "stream": stream, "method": method, "backbone": backbone, "selector": selector, "candidates": candidates,
        "seed": seed, "device": device, "precision": precision, "workers": workers,
    }  # fmt: skip
    values = read_recipe(recipe) if recipe else {}
    values |= {name: value for name, value in given.items() if value not in ("", None)}
    values |= _parsed(settings or [])
    configuration = config.Config.of(values)
    out = out or config.default_directory(configuration)
    display = Display()
    experiment.run(configuration, out, resume, display)
    _print(side_by_side([out]).table())
    display.note(f"report: {out / 'report.html'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
) -> None:
    """Run a small continual-learning story on drawn images, with the CLIP of the package."""
    from everclip import demo as story
    from everclip.display import Display

    display = Display()
    comparison = story.run(out, display)
    _print(comparison.table())
    display.note(f"reports: {', '.join(str(path) for path in story.reports(out))}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    candidates: Annotated[str, typer.Option(help="task · seen · all; by default that of the runs.")] = "",
    mix: Annotated[bool, typer.Option("--mix", help="Compare runs of different protocols all the same.")] = False,
    csv: Annotated[Optional[Path], typer.Option(help="Write the table as CSV.")] = None,  # noqa: UP045
    latex: Annotated[Optional[Path], typer.Option(help="Write the table as LaTeX.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="Draw the comparison (.png, .svg or .pdf).")] = None,  # noqa: UP045
) -> None:
    """Put finished runs side by side; refuses to mix protocols unless told."""
    from everclip.report import compare as side_by_side

    comparison = side_by_side(runs, candidates or None, mix)
    _print(comparison.table())
    comparison.save(csv=csv, latex=latex, plot=plot)


AsJson = Annotated[bool, typer.Option("--json", help="As JSON, with every setting.")]


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods."""
    from everclip.methods import METHODS

    _catalog(METHODS, as_json, ("summary", "paper", "routed", "upper_bound", "reads", "promises", "training_defaults"))


@app.command()
def selectors(as_json: AsJson = False) -> None:
    """List the selectors, which decide what task an image belongs to."""
    from everclip.selectors import SELECTORS

    _catalog(SELECTORS, as_json, ("summary", "upper_bound"))


def _catalog(registry: dict[str, Any], as_json: bool, fields: tuple[str, ...]) -> None:
    from rich.table import Table

    if as_json:
        entries = []
        for name, kind in registry.items():
            entry: dict[str, Any] = {"name": name}
            for field in fields:
                value = getattr(kind, field)
                entry[field] = sorted(value) if isinstance(value, frozenset) else value
            properties = kind.Config.model_json_schema().get("properties", {})
            entry["settings"] = {
                k: {n: v[n] for n in ("default", "description") if n in v} for k, v in properties.items()
            }
            entries.append(entry)
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    table = Table("name", *(field for field in fields if field in ("summary", "paper")))
    for name, kind in registry.items():
        table.add_row(name, *(getattr(kind, field) for field in fields if field in ("summary", "paper")))
    _print(table)


def _parsed(settings: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings → values, read as YAML so that numbers, lists and `null` come out as such."""
    import yaml

    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {setting} is not of the form KEY=VALUE, for example --set lr=1e-3.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {setting}: '{value}' is not a value (a number, a word, or a list [a, b])."
            ) from error
    return values


def _print(renderable: Any) -> None:
    from rich.console import Console

    console = Console()
    # Piped into a file there is no screen to fit: do not squeeze the table.
    console.width = console.width if console.is_terminal else 200
    console.print(renderable)


def main() -> None:
    """Entry point: every error raised on purpose becomes one sentence and an exit status."""
    # A plain `kill` should leave by the front door too: the lock goes, the sentence is printed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(standalone_mode=True)
    except EverclipError as error:
        typer.echo(f"everclip: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("everclip: interrupted; go on with --resume.", err=True)
        sys.exit(130)
