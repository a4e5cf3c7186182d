"""The Hugging Face Hub: where a folder goes only when its user asked for it by name."""

import re
from pathlib import Path
from typing import Any

from twoviews.errors import DataError, RefusedError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_push(name: str) -> None:
    """Look at name and token before any work. Raises UsageError for what is no USER/NAME, RefusedError for no token."""
    import huggingface_hub

    if not _NAME.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name:
        raise UsageError(f"cannot push to {name!r}: give USER/NAME, letters, digits, '-', '_' and '.', up to 96")
    if not huggingface_hub.get_token():
        raise RefusedError(
            f"cannot push to {name}: there is no token for the Hugging Face Hub on this machine; give one with write "
            "access in the environment variable HF_TOKEN, or by hf auth login, and push again"
        )


def push(folder: Path, name: str) -> str:
    """Upload a folder as the model NAME, which is made private where it is new; gives its address.

    Raises DataError where that fails; the folder stays.
    """
    import huggingface_hub

    hub: Any = huggingface_hub.HfApi()
    try:
        hub.create_repo(name, repo_type="model", private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model", commit_message="Export by twoviews")
    except Exception as error:  # httpx and the hub client each raise from a tree of their own
        reason = " ".join((str(error).strip() or type(error).__name__).split())[:200]
        raise DataError(f"could not push to {name} ({reason}); what was written stays in {folder}") from error
    return f"https://huggingface.co/{name}"
