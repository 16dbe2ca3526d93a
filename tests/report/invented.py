from __future__ import annotations

from typing import Any

import numpy as np

from everclip.report import summarize


def build(
    method: str = "finetune",
    names: tuple[str, ...] = ("shapes", "digits", "flags"),
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    upper_bound: bool = False,
    routed: bool = True,
    draw: int | None = None,
    scenario: str = "multi-domain",
    **protocol: Any,
) -> dict[str, Any]:
    """The results of an invented run; an upper bound has the last row alone, as joint training does."""
    generator = np.random.default_rng(seed if draw is None else draw)
    tasks = range(len(names))
    tests = [120 + 10 * j for j in tasks]

    def rows(gain: float) -> list[list[np.ndarray] | None]:
        chance = [[0.3 + gain + 0.4 * (j <= i) - 0.02 * (i - j) * (j <= i) for j in tasks] for i in tasks]
        return [
            None if upper_bound and i < tasks[-1] else [generator.random(tests[j]) < chance[i][j] for j in tasks]
            for i in tasks
        ]

    gains = {"task": 0.1, "seen": 0.05, "all": 0.0}
    counts = [[[0] * (len(names) + 1) for _ in tasks] for _ in tasks]
    for i in tasks:
        for j in tasks:
            counts[i][j][j if j <= i else -1] = tests[j] - 10
            counts[i][j][0 if j <= i else i] += 10
    return summarize(
        header={
            "everclip": "0.1.0",
            "method": method,
            "backbone": {"name": "embedded", "digest": "0" * 12},
            "stream": "drawn",
            "scenario": scenario,
            "protocol": {
                "stream": "drawn",
                "tasks": list(names),
                "backbone": "embedded",
                "candidates": "task",
                "routing": "sample",
                "shots": None,
                "seed": seed,
                **protocol,
            },
            "training": {"iterations": 150, "lr": 5e-05},
            "settings": settings or {"top_k": 2},
            "trained_parameters": {"per_task": [1000] * len(names), "total": 1000 * len(names)},
        },
        datasets=[
            # Only the first dataset is below twice chance: two classes, and CLIP is right on about 0.4.
            {
                "name": name,
                "classes": 2 if j == 0 else 12,
                "train": 400,
                "validation": 40,
                "test": tests[j],
                "skipped": j,
            }
            for j, name in enumerate(names)
        ],
        correct={name: rows(gain) for name, gain in gains.items()},
        by_name={name: rows(gain + 0.1) for name, gain in gains.items()},
        zero_shot={name: [generator.random(n) < 0.3 + gain for n in tests] for name, gain in gains.items()},
        routing={"columns": [*names, "zero-shot"], "after": counts} if routed else None,
        upper_bound=upper_bound,
    )
