"""Train one agent on its groups and survey questions: load, hold out, train from the last whole checkpoint,
save whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cultural_palette.training.checkpoints import last_whole_checkpoint, save_whole
from cultural_palette.training.grouped_trainer import MEASURES, Lessons
from cultural_palette.training.orpo_settings import OrpoSettings
from cultural_palette.training.preferences import Group, check_groups, hold_out
from cultural_palette.training.seeding import seeded
from cultural_palette.training.share_questions import (
    ShareQuestion,
    check_share_questions,
    hold_out_batteries,
    shown_questions,
)
from cultural_palette.training.trainer_arguments import Report
from cultural_palette.training.trainers import build_trainer, load_model


def align(
    base: str | Path,
    groups: Sequence[Group],
    out: Path,
    settings: OrpoSettings,
    report: Report | None = None,
    questions: Sequence[ShareQuestion] = (),
    start: Path | None = None,
) -> dict[str, float]:
    """Train one agent by the settings' objective, ORPO on `groups`, shares on `questions`: a LoRA adapter, or
    all of the weights.

    Saved to `out`, the weights last and whole, with the tokenizer when all weights were trained. Goes on from
    the last whole checkpoint under `out/checkpoints` when there is one, to the same weights as an undisturbed
    run's. The caller's random generators are left as they were.

    `start`: the folder of an adapter of the same rank and targets whose weights stand in the place of a fresh
    adapter's. `report` gets every logged row. Returns the last logged measures, and `eval_` ones when prompts
    (of questions: batteries) are held out. Raises PreferenceRowError for groups and ShareRowError for
    questions that can not be trained on, TrainingError for settings that do not fit the base.
    """
    if settings.learns_texts:
        check_groups(groups)
    if settings.learns_shares:
        check_share_questions(questions, "the survey")
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    checkpoints = out / "checkpoints"
    train, held_out = lessons(groups, questions, settings)
    with seeded(settings.seed):
        model = load_model(base, settings, start)
        trainer = build_trainer(model, tokenizer, train, held_out, checkpoints, settings, report)
        with trainer.ready():
            trainer.train(resume_from_checkpoint=last_whole_checkpoint(checkpoints))
            final: dict[str, float] = trainer.evaluate() if held_out else {}
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        save_whole(model, state, out, tokenizer if settings.rank == 0 else None)
    trainer.accelerator.wait_for_everyone()
    return last_measures(trainer.state.log_history, final)


def lessons(
    groups: Sequence[Group], questions: Sequence[ShareQuestion], settings: OrpoSettings
) -> tuple[Lessons, Lessons]:
    """What one pass trains on, and what `eval_ratio` holds out of it; what the objective has no use for is
    left out of both.
    """
    texts = hold_out(groups if settings.learns_texts else (), settings.eval_ratio, settings.seed)
    parts = hold_out_batteries(
        questions if settings.learns_shares else (), settings.eval_ratio, settings.seed
    )
    shown = [
        tuple(shown_questions(some, settings.orders, settings.countries, settings.seed)) for some in parts
    ]
    return Lessons(texts[0], shown[0]), Lessons(texts[1], shown[1])


def last_measures(log: Sequence[Mapping[str, Any]], final: Mapping[str, float]) -> dict[str, float]:
    """The measures of the last logged training row, and those of the final evaluation."""
    logged = [row for row in log if any(key in row for key in MEASURES)]
    last = {key: logged[-1][key] for key in MEASURES if key in logged[-1]} if logged else {}
    return last | {key: value for key, value in final.items() if key.removeprefix("eval_") in (*last, "loss")}
