"""What every method of the registry must do, whatever it is: the laws of `everclip.testing`, one test each."""

from __future__ import annotations

from typing import Any

import pytest

from everclip.errors import InputError
from everclip.methods import METHODS, Method, method_class
from everclip.testing.laws import NOT_PROMISED
from everclip.testing.lessons import Lessons, new_method
from everclip.testing.methods import METHOD_LAWS, History, described, live, settings_form_one_namespace

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "moe-adapters-strict": ("moe-adapters", {"strict": True}),
    "moe-adapters-shared": ("moe-adapters", {"experts": 2, "shared_router": True, "freeze": 0}),
    "linear-adapter-hard": ("linear-adapter", {"retention": "hard", "replay": "exemplars"}),
    "attention-adapter-pooled": ("attention-adapter", {"tokens": "pooled", "replay": "gaussian"}),
    "prompt-tuning-plain": ("prompt-tuning", {"retention": "none", "replay": "none", "context_words": ""}),
    "rail-published": ("rail", {"fusion": "published", "ridge": 10.0, "random_features": 64}),
    "rail-dual-search": ("rail-dual", {"ridge": "search", "calibration": 4}),
    "zscl-text": ("zscl", {"distill_text": True, "consolidation": 0.0, "average_every": 0}),
}
"""Settings under which a method promises or stores something else: they pass the same tests."""

SMALL: dict[str, dict[str, Any]] = {
    **{name: {"random_features": 64} for name in ("rail", "ranpac")},
    "lwf-vr": {"random_texts": 8},
    "icarl": {"exemplars": 11},
    "zscl": {"average_every": 3},
}
"""What keeps the matrix quick, and lets a few steps on a few images show what a method does."""


@pytest.fixture(scope="module", params=[*METHODS, *VARIANTS])
def history(request: pytest.FixtureRequest, lessons: Lessons) -> History:
    name, settings = VARIANTS.get(request.param, (request.param, SMALL.get(request.param, {})))
    return live(new_method(METHODS[name], lessons, **settings), lessons)


def test_unknown_method() -> None:
    with pytest.raises(InputError, match=r"'nonsense'.*finetune.*separate"):
        method_class("nonsense")


@pytest.mark.parametrize("name", METHODS)
def test_what_it_says_of_itself(name: str) -> None:
    kind: type[Method] = METHODS[name]
    assert method_class(name) is kind
    assert kind.name == name
    assert kind.paper
    described(kind)
    settings_form_one_namespace(kind)


@pytest.mark.parametrize("law", METHOD_LAWS, ids=lambda law: law.__name__)
def test_law(history: History, lessons: Lessons, law: Any) -> None:
    if law(history, lessons) is NOT_PROMISED:
        pytest.skip("not promised")
