"""The product's own output alone reaches the terminal."""

from __future__ import annotations

from transformers.utils import logging


def hide_progress_bars() -> None:
    """transformers draws none while it loads weights, in this process from now on."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
