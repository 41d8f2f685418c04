"""Names of models on the hub, and uploads to it."""

from __future__ import annotations

import os

from kdnas_env.errors import ExportError, one_line
from kdnas_env.support.atomic import expanded

_HUB_NAMES = {"demo": "sentence-transformers/all-MiniLM-L6-v2"}
"""Hub names of the embedded teachers."""


def hub_name(name: str) -> str | None:
    """Return the hub name of a model; None for a folder."""
    if name in _HUB_NAMES:
        return _HUB_NAMES[name]
    if expanded(name).exists() or name.startswith("~") or _complaint(name) is not None:
        return None
    return name


def check_repo_id(repo_id: str) -> None:
    """Check the name of a model on the hub.

    Raises:
        ExportError: If it is malformed.
    """
    complaint = _complaint(repo_id)
    if complaint is not None:
        raise ExportError(f"{repo_id!r} is not the name of a model on the hub: {complaint}; write OWNER/NAME")


def push_folder(
    folder: str | os.PathLike[str], repo_id: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload an export to the hub, with the credentials of ``hf auth login``.

    Args:
        folder: The export.
        repo_id: Its name on the hub, OWNER/NAME; created if it does not exist.
        private: Whether a newly created model is private.
        endpoint: Address of the hub; None for the default.

    Returns:
        The address of the model.

    Raises:
        ExportError: If the upload fails. The local folder is kept.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    try:
        api = HfApi(endpoint=endpoint)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=os.fspath(folder), commit_message="Export of kdnas")
    except Exception as error:
        # Missing logins, refused names and network failures raise different types.
        raise ExportError(
            f"the export in {os.fspath(folder)!r} is complete, but uploading it to {repo_id!r} failed: "
            f"{one_line(error)}; check network and login (hf auth login), and upload the folder with hf upload"
        ) from error
    return str(url)


def _complaint(repo_id: str) -> str | None:
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    try:
        utils.validate_repo_id(repo_id)  # type: ignore[attr-defined]
    except HFValidationError as error:
        return str(error)
    return None
