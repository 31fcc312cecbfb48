"""What a model would answer to a survey: label log-probabilities, a question's countries in one pass.

Models are the parts of one base: itself, an agent, the joint adapter, the MoErges under weights or a router.
Several share one copy of the base (`palette/moerges`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cultural_palette.moerges.adapters import read_adapter
from cultural_palette.moerges.model import install
from cultural_palette.moerges.modes import Mode
from cultural_palette.training.logps import share_logps
from cultural_palette.training.share_questions import Shown
from cultural_palette.training.share_tokens import encode_shown, lay_out_shares


@dataclass(frozen=True)
class ShareReading:
    """A country's reading of one question in one order. `logps`: natural, of each label, by place as shown;
    `gold`: the survey's shares, by place as shown.
    """

    question: str
    battery: str
    country: str
    order: tuple[int, ...]
    logps: tuple[float, ...]
    gold: tuple[float, ...]


class ShareReader:
    """A base with its adapters, read question by question."""

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path], dtype: torch.dtype = torch.float32
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        self.model.train(False)
        self.colours: Any = None
        if adapters:
            self.colours = install(self.model, {key: read_adapter(path) for key, path in adapters.items()})

    @torch.inference_mode()
    def read(
        self, shown: Sequence[Shown], mode: Mode, max_length: int = 2048
    ) -> Iterator[list[ShareReading]]:
        """Each question's readings, as they come; every row of the pass is in `mode`."""
        pad_id = self.tokenizer.pad_token_id or 0
        for one in shown:
            batch = lay_out_shares([encode_shown(self.tokenizer, one, max_length)], "packed", pad_id)
            if self.colours is None:
                logps = share_logps(self.model, batch)
            else:
                with self.colours.use([mode]):
                    logps = share_logps(self.model, batch)
            size = len(one.question.options)
            yield [
                ShareReading(
                    one.original.id,
                    one.original.battery,
                    country,
                    one.order,
                    tuple(row[:size]),
                    tuple(one.gold(country)),
                )
                for country, row in zip(one.countries, logps.tolist(), strict=True)
            ]
