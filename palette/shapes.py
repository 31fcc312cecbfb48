"""Whether what a file holds has the shape that its reader counts on: a TypedDict, and a line for what has not.

Files of our own runs may have been edited, cut or written by another version; none of that is a traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from cultural_palette.errors import ArtifactError

Shape = TypeVar("Shape")
MEND = "Mend it, or take it out."


def of_shape(
    value: Mapping[str, Any], shape: type[Shape], where: str, advice: str = MEND,
    kind: Callable[[str], Exception] = ArtifactError,
) -> Shape:  # fmt: skip
    """The value itself, fields beyond the shape included. Raises `kind("where: field: why. advice")`."""
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        found = repr(first["input"])
        shown = found if len(found) <= 60 else found[:57] + "..."
        raise kind(f"{where}: {field} is {shown}: {first['msg'].lower()}. {advice}") from None
    return cast("Shape", value)


@functools.cache
def _adapter(shape: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
