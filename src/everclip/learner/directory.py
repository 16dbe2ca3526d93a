"""A learner on disk.

    learner.json            what it learned, and the SHA-256 of the tensors that belong to it
    increment-….safetensors what an increment fixed for good, and the sample that was held out of it
    working-….safetensors   what later increments may still change
    selector-….safetensors  what the selector fitted, where there is one
    README.md               a model card

`learner.json` is the one truth: it is replaced atomically after the files it names are on disk. These are named by
their content, so a file never changes. A process that is killed while saving leaves either the old learner or the new
one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everclip.errors import EverclipError, InputError
from everclip.learner.schema import check_about
from everclip.storage.directory import Checked, Directory, tensor_bytes
from everclip.storage.faults import fault_point
from everclip.storage.files import sha256
from everclip.storage.reading import Malformed, shown
from everclip.storage.tensors import read_tensor_bytes, tensors_of

FORMAT = 1
"""Version of the layout; raised whenever an older EverCLIP could misread a newer learner."""
CARD = "README.md"
TENSORS = re.compile(r"(increment|working|selector)-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True)
class Stored:
    """A learner as a directory keeps it.

    Attributes:
        about: all but the tensors, as JSON can say it.
        parts: `working`, `selector` and `increment-INDEX` → tensors; a part without tensors may be left out.
    """

    about: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]


class LearnerDirectory(Directory):
    """One learner on disk. Use as a context manager to save: the lock is held inside."""

    kind = "learner directory"
    elsewhere = "choose another folder"
    anew = "learn anew in another folder"
    again = "give the command again"
    state = "learner.json"

    def is_ours(self, name: str) -> bool:
        """Hidden files are nobody's concern, so that a learner can be saved into a clone of its repository."""
        return super().is_ours(name) or name.startswith(".") or TENSORS.fullmatch(name) is not None

    def require(self) -> None:
        """Ask for a learner that is there.

        Raises:
            InputError: there is none.
        """
        if not self.exists():
            raise InputError(f"{self.path} holds no learner (no {self.state}); make one by `everclip learn`.")

    def save(self, stored: Stored, card: str) -> None:
        """Make this learner the one that is here, then remove the files of the one that was. The lock must be held.

        Raises:
            EverclipError: the disk is full or refuses; what was there still is.
        """
        files = {}
        for part, tensors in stored.parts.items():
            if tensors:
                content = tensor_bytes(tensors)
                digest = hashlib.sha256(content).hexdigest()
                name = f"{part.partition('-')[0]}-{digest[:16]}.safetensors"
                if not (self.path / name).is_file() or sha256(self.path / name) != digest:
                    self.write(name, content)
                files[part] = {"name": name, "sha256": digest}
        self.write_state({"format": FORMAT, **stored.about, "files": files})
        self.write(CARD, card)
        named = {file["name"] for file in files.values()}
        for path in self.path.iterdir():
            if TENSORS.fullmatch(path.name) and path.name not in named:
                fault_point(f"remove {path.name}")
                self.remove(path)

    def peek(self) -> dict[str, Any]:
        """What `learner.json` says, without a look at the files it names.

        Raises:
            InputError: there is no learner here.
            EverclipError: the file is damaged, or of another version.
        """
        self.require()
        about = self.read_state()
        if about.get("format") != FORMAT:
            raise EverclipError(
                f"{self.path / self.state} was written by another version of EverCLIP (format "
                f"{shown(about.get('format'))}, this one reads {FORMAT}); load it with the version that wrote it."
            )
        try:
            check_about(about, str(self.path / self.state))
        except Malformed as error:
            raise self.damaged(self.state, error) from error
        return about

    def load(self) -> Stored:
        """The learner that is here, every file checked. Needs no lock.

        Raises:
            InputError: there is no learner here.
            EverclipError: a file is damaged or missing, or of another version.
        """
        while True:
            about = self.peek()
            try:
                return Stored(about, {part: self._tensors(file) for part, file in about["files"].items()})
            except EverclipError:
                # Whoever saves at this moment removes files of the state before: read the new one.
                if self.peek() == about:
                    raise

    def verify(self) -> Iterator[Checked]:
        """Compare every file of the learner with its digest, the card excepted: people may edit that."""
        try:
            if not self.exists() and self.has_tensors():
                raise self.missing(self.state)
            about = self.peek()
        except EverclipError as error:
            yield Checked(self.state, str(error))
            return
        yield Checked(self.state)
        for file in about["files"].values():
            try:
                self._content(file)
            except EverclipError as error:
                yield Checked(file["name"], str(error))
            else:
                yield Checked(file["name"])

    def has_tensors(self) -> bool:
        """Whether tensors of a learner are here; without `learner.json` where that is lost, or was never written."""
        return self.path.is_dir() and any(TENSORS.fullmatch(path.name) for path in self.path.iterdir())

    def _tensors(self, file: Mapping[str, str]) -> dict[str, Tensor]:
        content = self._content(file)
        try:
            return tensors_of(content)
        except Malformed as error:
            raise self.damaged(file["name"], error) from error

    def _content(self, file: Mapping[str, str]) -> bytes:
        """The bytes of a file that `learner.json` names, compared with their SHA-256."""
        name = file["name"]
        try:
            content = read_tensor_bytes(self.path / name)
        except FileNotFoundError:
            raise self.missing(name) from None
        except PermissionError as error:
            raise self.unreadable(name, error) from error
        except (OSError, Malformed) as error:
            raise self.damaged(name, error) from error
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise self.damaged(name)
        return content
