"""Learners on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import create_repo, snapshot_download, upload_folder
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # httpx's, or requests'

from everclip.errors import EverclipError
from everclip.storage.lock import FILES

_REFUSALS = (HfHubHTTPError, HTTPError, OSError, ValueError)
"""What the Hub's client raises: an answer that is no, no connection, no such file, a name that can't be."""


def upload(directory: Path, repo_id: str, token: str | None) -> None:
    """Put a saved learner into a repository, made if it is absent, in one commit that takes the place of the last one.

    Raises:
        EverclipError: the Hub refused, or can't be reached.
    """
    try:
        create_repo(repo_id, token=token, exist_ok=True)
        upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            token=token,
            commit_message="Save the learner",
            ignore_patterns=[*sorted(FILES), "*.tmp"],
            delete_patterns=["*.safetensors"],  # of the learner before; those uploaded now stay
        )
    except _REFUSALS as error:
        raise EverclipError(
            f"the learner could not be pushed to '{repo_id}' ({_reason(error)}); check name, token and connection."
        ) from error


def download(repo_id: str, token: str | None) -> Path:
    """A repository's learner as a local directory, from the Hub's cache where it is there already.

    Raises:
        EverclipError: no such repository, no access, or no connection.
    """
    try:
        return Path(snapshot_download(repo_id, token=token, allow_patterns=["learner.json", "*.safetensors"]))
    except _REFUSALS as error:
        raise EverclipError(
            f"'{repo_id}' is no folder and could not be had from the Hub ({_reason(error)}); check name, token and "
            "connection."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
