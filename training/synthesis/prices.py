"""What tokens cost: a table with its date and source, or a person's own. An unknown price stays unknown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cultural_palette.errors import UsageError
from cultural_palette.models import ModelRef
from cultural_palette.yaml_files import YamlFault, read_yaml

BUILT_IN = Path(__file__).parent / "prices.yaml"
MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens read (`input`) and written (`output`); `note`: whose price, of when."""

    input: float
    output: float
    note: str

    def __post_init__(self) -> None:
        if min(self.input, self.output) < 0:
            raise ValueError(f"a price is not negative: {self.input}, {self.output}")

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / MILLION


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    batch: float = Field(default=1.0, gt=0, le=1)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str = "your own file"
    as_of: Any = "no date"
    models: dict[str, _Entry]


def price_of(
    model: ModelRef, file: Path | None = None, *, batch: bool = False, own_server: bool = False
) -> Price | None:
    """The price of a model by its name without address: `file` first, then the built-in table, which does
    not hold for `own_server`s; what runs in this process costs nothing; else None.
    """
    name = str(ModelRef(model.provider, model.name))
    for path in (file, None if own_server else BUILT_IN):
        if path is None:
            continue
        table = _read(path)
        if entry := table.models.get(name):
            factor = entry.batch if batch else 1.0
            note = f"{table.source}, {table.as_of}" + (f", batch x {factor:g}" if batch else "")
            return Price(entry.input * factor, entry.output * factor, note)
    if model.in_process:
        return Price(0.0, 0.0, "runs in this process")
    return None


def _read(path: Path) -> _Table:
    try:
        return _Table.model_validate(read_yaml(path))
    except FileNotFoundError:
        raise UsageError(f"No file {path} with prices.") from None
    except (OSError, YamlFault) as error:
        raise UsageError(f"{path} can not be read: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path}: {where}: {first['msg']}. Expected, for example:\n"
            "models:\n  openai:my-model: {input: 0.15, output: 0.60}"
        ) from None
