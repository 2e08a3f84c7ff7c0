"""What the programs that we start keep for themselves goes into _build, not into the user's home."""

from __future__ import annotations

import contextlib
import os

from .. import files

PLACES = {"MPLCONFIGDIR": "matplotlib", "IPYTHONDIR": "ipython"}


def keep_here() -> None:
    """Let matplotlib and IPython keep their files in _build, here and in every child, unless told or it is read-only."""
    for name, folder in PLACES.items():
        place = files.BUILD / "caches" / folder
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault(name, str(place))
