"""What `learner.json` holds. A learner may come from anybody: all that is said later rests on what is checked here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from everclip.data import check_encodable, check_templates, plain_name
from everclip.storage.reading import Malformed, Schema, fitting, shown

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e18, le=1e18)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class File(Schema):
    """A file of tensors: named by its content, in the learner's own folder."""

    name: str = Field(pattern=r"^(increment|working|selector)-[0-9a-f]{16}\.safetensors$")
    sha256: Digest

    @model_validator(mode="after")
    def _named_by_its_content(self) -> File:
        if self.name.partition("-")[2].removesuffix(".safetensors") != self.sha256[:16]:
            raise ValueError(f"the file {self.name} is not named by its SHA-256")
        return self


class Entry(Schema):
    """An increment: what one lesson taught."""

    task: str = Field(min_length=1)
    name: str = Field(min_length=1)
    class_names: list[str] = Field(min_length=1)
    known_as: list[Annotated[list[Count], Field(min_length=2, max_length=2)]]
    templates: list[str]
    images: Count
    accuracy: dict[str, Percent | None]

    @model_validator(mode="after")
    def _one_key_per_class(self) -> Entry:
        keys = {(space, number) for space, number in self.known_as}
        if not len(keys) == len(self.known_as) == len(self.class_names) or len({space for space, _ in keys}) > 1:
            raise ValueError("'known_as' is not one label space with a number for each class")
        return self


class About(Schema):
    """All but the tensors; see `storing.about`."""

    everclip: str
    backbone_digest: str = Field(pattern=r"^[0-9a-f]{1,128}$")
    settings: dict[str, Any]
    increments: list[Entry]
    files: dict[str, File]
    familiarity: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _says_what_learned_on_what(self) -> About:
        for name in ("method", "backbone"):
            if not isinstance(self.settings.get(name), str):
                raise ValueError(f"the settings name no {name}")
        return self

    @model_validator(mode="after")
    def _every_part_has_its_file(self) -> About:
        parts = {f"increment-{index}" for index in range(len(self.increments))}
        if missing := sorted(parts - self.files.keys()):
            raise ValueError(f"it names no file for {missing[0]}")
        for part, file in self.files.items():
            if part not in parts | {"working", "selector"}:
                raise ValueError(f"it has a file for {shown(part)}, and no such part")
            if part.partition("-")[0] != file.name.partition("-")[0]:
                raise ValueError(f"the file {file.name} can't be {shown(part)}")
        return self

    @model_validator(mode="after")
    def _every_task_has_its_space(self) -> About:
        spaces: dict[str, int] = {}
        owners: dict[int, str] = {}
        for increment in self.increments:
            space = increment.known_as[0][0]
            if spaces.setdefault(increment.task, space) != space or owners.setdefault(space, increment.task) != (
                increment.task
            ):
                raise ValueError(f"task {shown(increment.task)} shares its label space, or has two")
        if len({increment.name for increment in self.increments}) < len(self.increments):
            raise ValueError("two increments have the same name")
        return self


def check_about(about: dict[str, Any], where: str) -> None:
    """Refuse what is no learner.

    Args:
        about: the content of `learner.json`, of a format that is read.
        where: the file, for messages.

    Raises:
        Malformed: it does not fit; the reason names the field.
        InputError: a class or a template that cannot be.
    """
    for entry in fitting(About, about).increments:
        for name in (entry.task, entry.name, *entry.accuracy, *entry.class_names):
            check_encodable(name, where)
        # Not `check_class_names`: names that are one class by now were two to earlier versions.
        if not all(map(plain_name, entry.class_names)) or len(set(entry.class_names)) < len(entry.class_names):
            raise Malformed("has a class with an empty name, or two of one name")
        check_templates(entry.templates, where)
        for template in entry.templates:
            check_encodable(template, where)
    for name, value in about["settings"].items():
        if isinstance(value, str) and "\x00" in value:  # no path and no name has one, and Python's own message no file
            raise Malformed(f"holds a zero byte in the setting {shown(name)}")
