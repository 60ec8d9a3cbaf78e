"""Uploading saved models to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from fastprune.errors import CheckpointError
from fastprune.files import user_path
from fastprune.models.manifests import read_manifest
from fastprune.progress import step
from fastprune.untrusted import check_inside


def push_to_hub(path: str | Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a directory written by ``PruningResult.save``, including the model card.

    Args:
        path: The directory.
        repository: Name such as ``owner/name``; created if it does not exist.
        private: Make a new repository visible to its owner only.
        token: Access token of the Hub [None: of the logged-in user].

    Returns:
        The URL of the repository.

    Raises:
        CheckpointError: The directory has no pruned model, or the upload fails.
        ModelError: A file of the directory is a link out of it.
    """
    path = user_path(path)
    read_manifest(path)
    for file in path.rglob("*"):
        check_inside(path, file)
    api = HfApi(token=token)
    try:
        with step("uploading"):
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(folder_path=str(path), repo_id=url.repo_id, commit_message="Pruned by fastprune")
    except Exception as error:  # network, login, permissions and invalid names raise unrelated types of errors
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} cannot be uploaded to {repository}: {reason}") from error
    return str(url)
