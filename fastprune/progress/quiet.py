"""Switching off other libraries' progress bars."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from transformers.utils import logging

DATASETS = "HF_DATASETS_DISABLE_PROGRESS_BARS"
"""Environment variable that datasets reads when it is imported."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within the context, datasets (also if imported meanwhile) and transformers draw no progress bars."""
    datasets = sys.modules.get("datasets")
    datasets_enabled = datasets is not None and not datasets.are_progress_bars_disabled()
    transformers_enabled = logging.is_progress_bar_enabled()
    variable = os.environ.get(DATASETS)
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
            os.environ.update({} if variable is None else {DATASETS: variable})
        elif datasets_enabled:
            datasets.enable_progress_bars()
        if transformers_enabled:
            logging.enable_progress_bar()
