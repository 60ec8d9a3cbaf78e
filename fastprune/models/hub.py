"""The Hub: a saved directory becomes a repository there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from fastprune.errors import CheckpointError
from fastprune.models.manifests import read_manifest
from fastprune.progress import step


def push_to_hub(path: str | Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a directory that ``PruningResult.save`` wrote, model card and all.

    Args:
        path: The directory.
        repository: A name such as ``owner/name``; it is made where there is none.
        private: Whether a new one is visible to its owner only.
        token: Of the Hub; None: the one that is logged in.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: The directory holds no pruned model, or the Hub cannot be reached or refuses.
    """
    read_manifest(path)
    api = HfApi(token=token)
    try:
        with step("uploading"):
            made = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(folder_path=str(path), repo_id=made.repo_id, commit_message="Pruned by fastprune")
    except Exception as error:  # no network, no login, no right and no valid name raise different families
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} cannot be uploaded to {repository}: {reason}") from error
    return str(made)
