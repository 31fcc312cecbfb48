"""Other people's text on a terminal."""

from cultural_palette.safe_text import visible

__all__ = ["visible"]
