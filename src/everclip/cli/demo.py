"""The demo: one small stream of drawn images, learned by three methods, with their results side by side."""

from __future__ import annotations

from pathlib import Path

from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.experiment.recipes import read_recipe
from everclip.report import Comparison, compare
from everclip.system.display import Display

METHODS = ("zero-shot", "finetune", "moe-adapters")


def run(out: Path, display: Display) -> Comparison:
    """Run the recipe `demo` with each method below `out` (going on where an earlier demo stopped) and compare."""
    for method in METHODS:
        display.note(f"— {method}")
        config = Config.of({**read_recipe("demo", method), "method": method})
        runner.run(config, out / method, resume=True, display=display)
    comparison = compare([out / method for method in METHODS])
    comparison.save(plot=out / "comparison.png")
    return comparison


def reports(out: Path) -> list[Path]:
    """The pages of the demo's runs."""
    return [out / method / "report.html" for method in METHODS]
