"""The settings of a learner: as for a run, typed sections that form one flat namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from everclip.backbone.clip import EMBEDDED, Precision
from everclip.engine.recipe import TrainingConfig
from everclip.errors import InputError
from everclip.experiment.config import check_names, layered, validated
from everclip.experiment.recipes import read_recipe
from everclip.methods import METHODS, Method, MethodConfig, method_class
from everclip.registry import entered
from everclip.selectors import SELECTORS, SelectorConfig, selector_class

DEFAULT_METHOD = "rail"
RECIPE = "development"
"""The recipe of methods that are trained by gradient."""


class LearnerSetup(BaseModel):
    """Which method learns on which backbone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(DEFAULT_METHOD, description="see `everclip methods`; one that can forget")
    backbone: str = Field(EMBEDDED, description="embedded, ARCH/TAG, ARCH/FILE, hf-hub:ORG/NAME or a folder")
    precision: Precision = Field("float32", description="float32 or bf16 (autocast)")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of held-out samples, batches, augmentation, initialization")


class Routing(BaseModel):
    """What a method with routes needs in addition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    selector: str = Field("gaussian", description="what decides which task an image belongs to")


@dataclass(frozen=True)
class LearnerConfig:
    """Validated settings of a learner.

    Attributes:
        setup: what learns on what.
        settings: of the method.
        training: the recipe, of a method that is trained by gradient.
        routing: only for a method with routes, as are the settings of its selector.
        selector_settings: of the selector.
    """

    setup: LearnerSetup
    settings: MethodConfig
    training: TrainingConfig | None
    routing: Routing | None
    selector_settings: SelectorConfig | None

    @staticmethod
    def of(values: Mapping[str, Any]) -> LearnerConfig:
        """Validate flat settings; what they leave out comes from the recipe `development`, then from the defaults.

        Args:
            values: `method` and `selector` as for `Config.of`.

        Raises:
            InputError: a method that a learner can't use, an unknown name, or a bad value.
        """
        values = entered(values)
        method = learnable(str(values.get("method", DEFAULT_METHOD)))
        sections: dict[str, type[BaseModel]] = {"setup": LearnerSetup, "settings": method.Config}
        if method.trains:
            sections["training"] = TrainingConfig
        if method.routed:
            sections["routing"] = Routing
            sections["selector_settings"] = selector_class(_selector(values)).Config
        check_names(values, list(sections.values()), f"method '{method.name}'")
        if values.get("fusion") == "published":
            raise InputError("fusion=published says no probabilities, which a learner answers with; leave it out.")
        known = {name for model in sections.values() for name in model.model_fields}
        recipe = {name: value for name, value in read_recipe(RECIPE, method.name).items() if name in known}
        complete = layered({**method.defaults, **recipe}, values)
        parts = {name: validated(model, complete) for name, model in sections.items()}
        if isinstance(complete.get("lr"), list):
            raise InputError("lr lists a rate per task, but a learner does not know how many will come; give one rate.")
        if "training" in parts:
            parts["training"].rows()  # refuses parts without an image now, not at the first lesson
        return LearnerConfig(**{"training": None, "routing": None, "selector_settings": None, **parts})

    def flat(self) -> dict[str, Any]:
        """All settings as one flat dictionary that `LearnerConfig.of` reads back."""
        parts = (self.setup, self.settings, self.training, self.routing, self.selector_settings)
        return {name: value for part in parts if part is not None for name, value in part.model_dump().items()}


def learnable(name: str) -> type[Method]:
    """A method that a learner can use: what it learns can be taken back.

    Raises:
        InputError: no such method, or one that can't forget.
    """
    method = method_class(name)
    if method.forgets is None:
        possible = ", ".join(name for name, each in METHODS.usable().items() if each.forgets is not None)
        raise InputError(f"method '{name}' can't be used in a learner, for it can't forget; choose from {possible}.")
    return method


def _selector(values: Mapping[str, Any]) -> str:
    name = str(values.get("selector", Routing().selector))
    if selector_class(name).upper_bound:
        possible = ", ".join(name for name, each in SELECTORS.usable().items() if not each.upper_bound)
        raise InputError(f"selector '{name}' must be told the task, which nobody knows; choose from {possible}.")
    return name
