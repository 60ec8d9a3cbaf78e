"""Other libraries' progress bars, off for as long as ours are on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import datasets
from transformers.utils import logging


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """While open, datasets and transformers draw no progress bars."""
    drew = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if not drew[0]:
            datasets.enable_progress_bars()
        if drew[1]:
            logging.enable_progress_bar()
