"""Where measurements and compiled code of this machine are kept from one process to the next."""

import os
from pathlib import Path

CACHE = "WINDTUNNEL_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """$WINDTUNNEL_CACHE, else windtunnel/ in the user's cache folder; it may not exist yet.

    Compiled code is loaded from it, so it is the user's own, never a folder of runs or data.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "windtunnel"
