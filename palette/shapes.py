"""Whether what a file holds has the shape that its reader counts on: a TypedDict, or a line on what has not.

Files of our own runs may have been edited, cut or written by another version; none of that is a traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
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
        _adapters(cast("Hashable", shape)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        text = repr(first["input"])
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise kind(f"{where}: {field} is {shown}: {first['msg'].lower()}. {advice}") from None
    return cast("Shape", value)


@functools.cache
def _adapters(shape: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", shape))
