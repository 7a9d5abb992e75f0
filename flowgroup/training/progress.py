"""The progress bar of long work."""

from __future__ import annotations

import warnings


def progress_bar(what: str, steps: int | None, done: int = 0, unit: str = "step"):
    """A tqdm bar that says `what`, `done` of its steps behind it; None, with a warning, where tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        warnings.warn(f"the progress bar needs tqdm: pip install 'flowgroup[train]'; {what} without one", stacklevel=4)
        return None
    return tqdm(total=steps, initial=done, desc=what, unit=unit)
