"""What tests of several files use."""

from __future__ import annotations

import pytest

from cultural_palette.evaluation.report import figures
from cultural_palette.evaluation.report.figures import Picture


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not rendered, which is what takes time."""
    monkeypatch.setattr(
        figures, "picture_of", lambda figure, key, text: Picture(key, text, "<svg></svg>", b"png")
    )
