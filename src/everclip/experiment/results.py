"""What a run says at its end, besides the figures that `everclip.report` computes: all that they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from everclip._version import __version__
from everclip.engine.evaluation import Evaluator, Outcome
from everclip.experiment.outcomes import padded
from everclip.methods import Method, MethodConfig
from everclip.report import summarize
from everclip.streams import CANDIDATES

if TYPE_CHECKING:
    from everclip.experiment.runner import Experiment


def results_of(run: Experiment, rows: dict[int, list[Outcome]]) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        run: all its stages are learned.
        rows: what was judged, by index of the last learned task.
    """
    config, tasks, state = run.config, run.stream.tasks, run.state
    # The base of all methods answers as the original CLIP does.
    original = Method(run.backbone, MethodConfig(), run.features)
    untouched = Evaluator(run.tests, original, run.selector, config.protocol).row(0)
    every = [rows.get(index) for index in range(len(tasks))]

    def table(kind: str) -> dict[str, list[Any]]:
        return {c: [row and [getattr(outcome, kind)[c] for outcome in row] for row in every] for c in CANDIDATES}

    datasets = []
    for task, test, learned in zip(tasks, run.tests, state.learned, strict=True):
        skipped = [*learned["skipped"], *getattr(test.data, "skipped", [])]
        datasets.append(
            {
                "name": task.name,
                "classes": len(task.info.class_names),
                "train": learned["train"],
                "validation": len(task.validation.labels),
                "test": len(test.data.labels),
                "few_shot_sha256": task.few_shot_sha256,
                "skipped": len(skipped),
                "skipped_files": [{"name": name, "reason": reason} for name, reason in skipped],
            }
        )
    per_task = [learned["trained_parameters"] for learned in state.learned]
    header = {
        "everclip": __version__,
        "method": run.method_type.name,
        "backbone": {
            "name": run.backbone.name,
            "digest": run.backbone.digest,
            "former_digests": list(run.backbone.former_digests),
        },
        "stream": run.stream.name,
        "scenario": run.stream.scenario,
        "protocol": protocol_of(run),
        "training": config.training.model_dump(exclude={"log_every"}),
        "settings": {
            **config.settings.model_dump(),
            **config.selector_settings.model_dump(),
            **_learned_from(run),
        },
        "trained_parameters": {"per_task": per_task, "total": run.method.trained_in_total(per_task)},
    }
    routing = None
    if run.method.routed:
        columns = [*(task.name for task in tasks), "zero-shot"]
        routing = {
            "columns": columns,
            "after": [row if row is None else [padded(o.routes, len(columns)) for o in row] for row in every],
        }
    zero_shot = {c: [outcome.correct[c] for outcome in untouched] for c in CANDIDATES}
    upper_bound = run.method_type.upper_bound or (run.method.routed and run.selector.upper_bound)
    return summarize(header, datasets, table("correct"), table("by_name"), zero_shot, routing, upper_bound)


def protocol_of(run: Experiment) -> dict[str, Any]:
    """What a figure depends on besides the method and its training."""
    setup = run.config.setup
    return {
        "stream": run.stream.name,
        "tasks": [task.name for task in run.stream.tasks],
        "backbone": run.backbone.name,
        "precision": setup.precision,
        "reference": setup.reference and Path(setup.reference).name,
        **run.config.protocol.recorded(),
    }


def _learned_from(run: Experiment) -> dict[str, str | None]:
    """What a method that asks for a reference learned from, by name: it tells two of its runs apart."""
    setup = run.config.setup
    paths = {"reference": setup.reference, "reference_texts": setup.reference_texts}
    return {name: path and Path(path).name for name, path in paths.items()} if run.method.requires else {}
