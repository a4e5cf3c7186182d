"""What a launcher (torchrun, `--devices`) told this process by its environment. Standard library only."""

import os

STORE = "TWOVIEWS_STORE"
"""Environment variable: a file by which the processes of one machine find each other without an open port."""


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def launched_rank() -> int:
    """The rank that a launcher gave this process, known before the processes have met; 0 without a launcher."""
    return int(os.environ.get("RANK", 0)) if launched() else 0
