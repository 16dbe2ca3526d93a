"""The configuration of a run: typed sections that form one flat namespace, for recipes, `--set` and `config.yaml`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everclip.backbone.clip import EMBEDDED, Precision
from everclip.engine.recipe import TrainingConfig
from everclip.errors import InputError
from everclip.methods import MethodConfig, method_class
from everclip.registry import entered
from everclip.selectors import SelectorConfig, selector_class
from everclip.streams import Protocol, Stream, in_python, named_seeds, stream_defaults
from everclip.system.paths import portable_path


class Setup(BaseModel):
    """Which method runs on which stream and backbone: the first part of every configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(description="see `everclip methods`")
    stream: str | None = Field(
        None, description="KIND:A,B,…, for example folders:photos,paintings, or a published one: mtil-1, …"
    )
    root: str | None = Field(
        None, description="folder of the published data sets; by default $EVERCLIP_DATA, else ./data"
    )
    backbone: str = Field(EMBEDDED, description="embedded, ARCH/TAG, ARCH/FILE, hf-hub:ORG/NAME or a folder")
    reference: str | None = Field(
        None, description="folder of unlabeled images that stand for everything that no task teaches"
    )
    reference_texts: str | None = Field(
        None, description="UTF-8 file with one text per line, of no task: what methods that distill compare images with"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, …")
    precision: Precision = Field("float32", description="float32 or bf16 (autocast)")
    workers: int = Field(2, ge=1, description="threads that decode and augment images; changes no result")
    keep_stages: bool = Field(
        False, description="keep what is learned after every task, not only the last, for `everclip judge`"
    )
    learned: str | None = Field(None, description="run directory that is judged again instead of learning anew")


LONGEST = 200
"""Characters of a value that a message repeats."""
HOW_NOT_WHAT = frozenset({"device", "workers", "root", "log_every"})
"""Settings that a resume may change: they say how and from where a run is computed, not what."""


@dataclass(frozen=True)
class Config:
    """A complete, validated configuration. Its fields together form one flat namespace: see `flat`.

    Attributes:
        stated: names of the settings that were given, as opposed to those left to defaults.
    """

    setup: Setup
    protocol: Protocol
    training: TrainingConfig
    settings: MethodConfig
    selector_settings: SelectorConfig
    stated: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Config:
        """Validate flat settings, the form that recipes, `--set` and `config.yaml` share.

        Args:
            values: `method` and `selector` are names; in values that no file gave, also classes, or
                `package.module:Class`, which is imported. `stream` may be left out where the run is given one.

        Raises:
            InputError: an unknown name or a bad value, repeated in one sentence with what is valid.
        """
        values = entered(values)
        if not values.get("method"):
            raise InputError("no method is given; name one with --method or in a recipe.")
        if not values.get("stream"):
            values["stream"] = None
        method = method_class(str(values["method"]))
        usual = stream_defaults(values["stream"]) if isinstance(values["stream"], str) else {}
        given, values = values, layered({**usual, **method.defaults}, values)
        selector = selector_class(str(values.get("selector", Protocol().selector)))
        models = (Setup, Protocol, TrainingConfig, method.Config, selector.Config)
        check_names(given, models, f"method '{method.name}'")
        setup, protocol, training, settings, selected = (validated(model, values) for model in models)
        return Config(setup, protocol, training, settings, selected, stated=frozenset(given))

    def stream_name(self) -> str:
        """The stream's name, as it is recorded.

        Raises:
            InputError: none is given.
        """
        if self.setup.stream is None:
            raise InputError(
                "no stream is given; name one with --stream or in a recipe, or in Python give one that you made: "
                "everclip.run(config, out, stream=...)."
            )
        return self.setup.stream

    def on(self, stream: Stream) -> Config:
        """This configuration for a stream that a program made: with its name, and its protocol where none was stated.

        Raises:
            InputError: another stream is named already.
        """
        name = in_python(stream)
        if self.setup.stream not in (None, name):
            raise InputError(
                f"the configuration names the stream {self.setup.stream}, and stream '{stream.name}' is given beside "
                "it; leave one of them out."
            )
        usual = Protocol()
        adopted = {
            setting: value
            for setting, value in stream.defaults.items()
            if setting not in self.stated and getattr(self.protocol, setting) == getattr(usual, setting)
        }
        # Another selector has other settings; those that were stated stay, and are refused if it has no such one.
        gone = set(self.selector_settings.model_dump()) - self.stated if "selector" in adopted else set()
        values = {setting: value for setting, value in self.flat().items() if setting not in gone}
        return replace(Config.of(values | adopted | {"stream": name}), stated=self.stated)

    def flat(self) -> dict[str, Any]:
        """All settings as one flat dictionary that `Config.of` reads back."""
        parts = (self.setup, self.protocol, self.training, self.settings, self.selector_settings)
        return {name: value for part in parts for name, value in part.model_dump().items()}

    def differing(self, stored: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        """Where this configuration asks for something else than a stored one, of what a resume may not change.

        Args:
            stored: content of a `config.yaml`. A setting that it lacks was added since: it had its default.

        Returns:
            The name of each such setting, the stored value, and the one of this configuration.
        """
        parts = (self.setup, self.protocol, self.training, self.settings, self.selector_settings)
        defaults = {name: field.default for part in parts for name, field in type(part).model_fields.items()}
        wanted = self.flat()
        for name in dict.fromkeys([*stored, *wanted]):
            before, now = stored.get(name, defaults.get(name)), wanted.get(name)
            if name not in HOW_NOT_WHAT and before != now:
                yield name, before, now


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others: `above` wins, and its iterations take the place of epochs from below."""
    replaced = {"epochs"} if "iterations" in above else set()
    return {name: value for name, value in below.items() if name not in replaced} | dict(above)


def check_names(given: Iterable[str], models: Sequence[type[BaseModel]], whose: str) -> None:
    """Refuse a setting that none of the sections has.

    Raises:
        InputError: there is one.
    """
    known = [name for model in models for name in model.model_fields]
    for name in given:
        if name not in known:
            raise InputError(f"'{name}' is no setting of {whose}; valid are: {', '.join(known)}.")


def validated(model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """A section from flat settings; names that it lacks are left to others.

    Raises:
        InputError: a bad value, repeated in one sentence with what is valid.
    """
    for name, field in model.model_fields.items():
        if isinstance(values.get(name), bool) and field.annotation is not bool:  # pydantic reads true as 1
            raise InputError(f"{name}={str(values[name]).lower()} is not valid ({name}: {field.description}).")
    try:
        return model(**{name: value for name, value in values.items() if name in model.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reasons = " or ".join(dict.fromkeys(e["msg"] for e in error.errors() if e["loc"][0] == name))
        help_line = model.model_fields[name].description
        given = "" if values[name] is None else values[name]
        said = str(given) if len(str(given)) <= LONGEST else f"{str(given)[:LONGEST]}…"
        raise InputError(f"{name}={said} is not valid: {reasons} ({name}: {help_line}).") from error


def default_directory(config: Config) -> Path:
    """Where a run goes when nobody says: `runs/STREAM/METHOD-seedN`, in names that every system can hold."""
    kind, _, parts = config.stream_name().partition(":")
    names = [kind, *(Path(part.strip()).name for part in parts.split(",") if part.strip())]
    name = re.sub(r"[^\w.+-]+", "-", "-".join(names)).strip("-")
    folder = portable_path(Path("runs") / name[:80])
    return portable_path(folder / f"{config.setup.method}-seed{named_seeds(config.protocol.model_dump())}")
