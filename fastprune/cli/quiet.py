"""Other libraries' progress bars, off for as long as ours are on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from transformers.utils import logging

DATASETS = "HF_DATASETS_DISABLE_PROGRESS_BARS"
"""What datasets reads when it is imported."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """While open, datasets and transformers draw no progress bars; neither does datasets that is imported meanwhile."""
    datasets = sys.modules.get("datasets")
    drew = datasets is not None and not datasets.are_progress_bars_disabled()
    loads = logging.is_progress_bar_enabled()
    said = os.environ.get(DATASETS)
    if datasets is None:
        os.environ[DATASETS] = "1"
    else:
        datasets.disable_progress_bars()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if datasets is None:
            os.environ.pop(DATASETS)
            os.environ.update({} if said is None else {DATASETS: said})
        elif drew:
            datasets.enable_progress_bars()
        if loads:
            logging.enable_progress_bar()
