"""Measure figures, and write the tables of docs/results.md from what was measured.

    python tools/results.py                        # measure every part and print its table
    python tools/results.py --part NAME --write    # measure one, store it in docs/results/, rewrite the page
    python tools/results.py --render               # rewrite the page from what is stored, measuring nothing

A *part* is one table. What was measured, with the command, seeds, hardware and commit that gave it, is a small file
`docs/results/NAME.json`. The page holds the table between `<!-- table: NAME -->` and `<!-- end -->`; nobody types it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from everclip.errors import EverclipError, InputError
from everclip.report import load_run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/results.md"
STORED = ROOT / "docs/results"
HEADLINE = ("transfer", "average", "last")
TABLE = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
MARK = re.compile(r"<!-- (?:table: .*|end) -->")

Record = Mapping[str, Any]
"""What a file in docs/results/ holds: `command`, `seeds`, `hardware`, `commit`, and the `rows` of its part."""


@dataclass(frozen=True)
class Part:
    """A table: how its figures are measured, and how they are shown.

    Attributes:
        command: what is run, `everclip run …`, with `METHOD` and `SEED` where each run has its own.
        methods: one row each, in this order.
        seeds: one run each; the table shows mean and deviation.
        read: `results.json` of a run → the figures that are kept of it.
        shown: (command, seeds and so on, `rows`: method → figures per seed) → the table in Markdown.
    """

    command: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    read: Callable[[Mapping[str, Any]], Any]
    shown: Callable[[Record], str]

    def measure(self, runs: Path) -> dict[str, Any]:
        """Run everything and read what came out: the content of the file of this part.

        Args:
            runs: folder for the run directories; runs that are finished there are not repeated.

        Raises:
            EverclipError: a run failed.
        """
        rows = {
            method: [self.read(_run(self.command, method, seed, runs / f"{method}-{seed}")) for seed in self.seeds]
            for method in self.methods
        }
        return {
            "command": self.command,
            "seeds": list(self.seeds),
            "hardware": hardware(),
            "commit": commit(),
            "rows": rows,
        }


def _run(command: str, method: str, seed: int, out: Path) -> dict[str, Any]:
    """Run a command as a user would, on one thread, and read its results."""
    words = shlex.split(command.replace("METHOD", method).replace("SEED", str(seed)))
    done = subprocess.run(
        [sys.executable, "-m", *words, "--out", str(out), "--resume"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise EverclipError(f"'{shlex.join(words)}' failed: {done.stdout.strip().splitlines()[-1]}")
    return load_run(out)


def hardware() -> str:
    """What the figures were measured on, as far as it may change them: cores, processor, and threads of a run."""
    model = platform.processor() or platform.machine()
    processors = Path("/proc/cpuinfo")
    if processors.is_file() and (found := re.search(r"model name\s*: (.*)", processors.read_text(encoding="utf-8"))):
        model = found[1]
    return f"{os.cpu_count()} cores ({model}, {torch.backends.cpu.get_cpu_capability()}), one thread"


def commit() -> str:
    """The last commit that changed what is measured."""
    return _git("log", "-1", "--format=%h", "--", "src").strip()


def refuse_changed_code() -> None:
    """Refuse to keep figures of code that no commit holds.

    Raises:
        InputError: `src` has changes that are not committed.
    """
    if changed := _git("status", "--porcelain", "--", "src").strip():
        raise InputError(
            f"{changed.split()[-1]} is changed but not committed, so no commit would stand for what is measured; "
            "commit it first, or leave --write out."
        )


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout


# -- reading and showing -----------------------------------------------------------------------------------------------


def by_candidates(results: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The headline under every candidate set, in percent to two digits behind the point."""
    return {
        candidates: {name: None if figures[name] is None else round(figures[name], 2) for name in HEADLINE}
        for candidates, figures in results["by_candidates"].items()
    }


def headline_by_candidates(record: Record) -> str:
    """Transfer / Average / Last, mean ± deviation over the seeds, a column per candidate set."""
    sets = list(next(iter(record["rows"].values()))[0])
    lines = [["method", *(f"`{name}`" for name in sets)]]
    for method, seeds in record["rows"].items():
        cells = [" / ".join(over_seeds([seed[each][name] for seed in seeds]) for name in HEADLINE) for each in sets]
        lines.append([f"`{method}`", *cells])
    return table(lines)


def over_seeds(values: Sequence[float | None]) -> str:
    """Mean ± sample deviation; a single value alone; a dash where one is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    mean = f"{statistics.fmean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def table(lines: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heading, as a table in Markdown."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


PARTS = {
    "analytic-drawn": Part(
        "everclip run --stream drawn:scenes,charts,textures --method METHOD --seed SEED",
        ("zero-shot", "ncm", "lda", "ranpac", "rail"),
        (0, 1, 2),
        by_candidates,
        headline_by_candidates,
    ),
}


def block(name: str, record: Record) -> str:
    """What stands between the marks of a part: what was run, and the table."""
    seeds = ", ".join(map(str, record["seeds"]))
    drawn = f"Seeds {seeds}; mean ± deviation" if len(record["seeds"]) > 1 else f"Seed {seeds}"
    said = f"{drawn}. Hardware: {record['hardware']}. Commit {record['commit']}."
    return f"\n    {record['command']}\n\n{said}\n\n{PARTS[name].shown(record)}\n\n"


def rendered(page: str, records: Mapping[str, Record]) -> str:
    """A page with every table written anew.

    Args:
        page: text with marks.
        records: part → what was measured.

    Raises:
        InputError: a mark without its partner, a mark of no part, a part without a file, or a file that no mark shows.
    """
    shown = TABLE.findall(page)
    if len(MARK.findall(page)) != 2 * len(shown) or any(MARK.search(inside) for _, inside in shown):
        raise InputError("a mark on the page has no partner; write <!-- table: NAME --> and <!-- end --> in turns.")
    names = [name for name, _ in shown]
    for name in names:
        if name not in PARTS:
            raise InputError(f"the page shows '{name}', which is no part; choose from {', '.join(PARTS)}.")
        if name not in records:
            raise InputError(f"the page shows '{name}', which is not measured; python tools/results.py --part {name} "
                             "--write measures it.")  # fmt: skip
    if unseen := sorted(records.keys() - names):
        raise InputError(
            f"nothing on the page shows '{unseen[0]}'; write <!-- table: {unseen[0]} --> and <!-- end -->."
        )
    return TABLE.sub(
        lambda found: f"<!-- table: {found[1]} -->\n{block(found[1], records[found[1]])}<!-- end -->", page
    )


def stored() -> dict[str, Record]:
    """What was measured, by part."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(STORED.glob("*.json"))}


def main(
    part: Annotated[list[str] | None, typer.Option(help="Which table; give it several times. All by default.")] = None,
    write: Annotated[bool, typer.Option(help="Keep what is measured, and rewrite the page.")] = False,
    runs: Annotated[Path | None, typer.Option(help="Keep the runs here; those finished are not repeated.")] = None,
    render: Annotated[bool, typer.Option(help="Measure nothing; rewrite the page from what is kept.")] = False,
) -> None:
    """Measure the tables of docs/results.md, or write them once more."""
    if render and (part or write):
        raise InputError("--render measures nothing and rewrites the whole page; leave --part and --write out.")
    names = [] if render else part or list(PARTS)
    for name in names:
        if name not in PARTS:
            raise InputError(f"there is no part '{name}'; choose from {', '.join(PARTS)}.")
    if write:
        refuse_changed_code()
        page = PAGE.read_text(encoding="utf-8")
        for name in names:  # before hours of work
            if name not in dict(TABLE.findall(page)):
                raise InputError(
                    f"{PAGE.name} has no place for '{name}'; write <!-- table: {name} --> and <!-- end -->."
                )
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            record = PARTS[name].measure((runs or Path(temporary)) / name)
        print(block(name, record))
        if write:
            text = json.dumps(record, indent=1, ensure_ascii=False)
            (STORED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if write or render:
        page = PAGE.read_text(encoding="utf-8")  # as it is now: somebody may have edited it while this measured
        PAGE.write_text(rendered(page, stored()), encoding="utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EverclipError as error:
        typer.echo(f"results: {error}", err=True)
        sys.exit(error.exit_code)
