"""The files of an answer: what an earlier one left is removed, and what is there is whole.

fits.json comes first and report.html last, so a page that is there belongs to the fits.json beside
it. Other people's files in the folder are left alone.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

PAGE = "report.html"

FIGURES = (
    "exponents", "isoflop_curves", "n_opt", "d_opt", "overview", "loss_compute", "contours",
    "identified", "residuals", "training_curves", "local_exponent", "multiverse", "rollout",
    "influence", "lr_valleys", "lr_law", "repetition",
)  # fmt: skip
"""Every figure that some analysis has."""


def make_folder(out: Path) -> None:
    """Make the folder of an answer and try to write there, before the work is done.

    Raises:
        OSError: It cannot be made or written; the message names it.
    """
    try:
        for folder in (out, out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise OSError(
            f"out={out} cannot be written ({error.strerror}: {error.filename}); give another folder"
        ) from None


def remove_page(out: Path) -> None:
    """Remove the page and the figures of an earlier analysis: other options draw others."""
    (out / PAGE).unlink(missing_ok=True)
    for name in FIGURES:
        for suffix in (".png", ".svg"):
            (out / "figures" / f"{name}{suffix}").unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it there in one step.

    Args:
        path: The file to replace.
        write: Writes to the path that it is given.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
