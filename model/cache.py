"""The folder for what can be downloaded or made again."""

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the user's cache folder for this project; a user without a home has it in the checkout."""
    try:
        return platformdirs.user_cache_path("scones-unlimited")
    except RuntimeError:
        return Path(__file__).parents[1] / ".local" / "cache"
