"""Errors a person can mend. The command line prints them bare; everything else keeps its traceback."""

from __future__ import annotations


class PaletteError(RuntimeError):
    """Something went wrong that a person can mend; the message names the value and the way out."""

    exit_code = 1


class UsageError(PaletteError):
    """Bad input."""

    exit_code = 2


class UnknownCountry(UsageError):
    """No country goes by that name."""


class QuestionError(UsageError):
    """A question that can not be asked as it stands."""


class MapError(UsageError):
    """A cultural map that can not be used; names file, line and field."""


class SettingsError(UsageError):
    """A setting that is unknown or out of range."""


class PromptError(UsageError):
    """A prompt whose fields do not match what was given."""


class ModelError(PaletteError):
    """A model that did not answer, or answered what can not be read."""


class TooFewDrafts(PaletteError):
    """Fewer drafts arrived than the run was told to go on with."""


class ArtifactError(PaletteError):
    """A run folder that can not be written or read."""
