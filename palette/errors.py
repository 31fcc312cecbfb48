"""Errors a person can mend. The command line prints them bare; everything else keeps its traceback."""

from __future__ import annotations

import errno

MOST_SHOWN, MOST_OF_THE_END = 3000, 1000
"""Characters of a message: its beginning has the place and the value, its end the way out."""
OF_THE_DISK = frozenset(
    (
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
    )
)


class PaletteError(RuntimeError):
    """Something went wrong that a person can mend; the message names the value and the way out."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; the middle of a very long one is left out, for a value in it may have any length."""
        text = super().__str__()
        if (more := len(text) - MOST_SHOWN - MOST_OF_THE_END) <= 0:
            return text
        return f"{text[:MOST_SHOWN]} [... {more:,} characters ...] {text[-MOST_OF_THE_END:]}"


def of_the_disk(error: OSError) -> PaletteError | None:
    """What the disk refuses, in a line: a name too long, no right, no room. None for other errors, such as a
    file that is not there, which may be a slip of ours.
    """
    if error.errno not in OF_THE_DISK:
        return None
    named = f"{error.filename}: " if error.filename is not None else ""
    return PaletteError(f"{named}{error.strerror}.")


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
