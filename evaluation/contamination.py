"""Has a base model read the survey? How likely it finds an item's own words against other words of the
same meaning.

A model that learned a published questionnaire by heart finds its wording likelier than it should. Two
signs, each a mean difference of natural log-probabilities per token, over items, with batteries as
clusters:

- `wording`: the question as printed minus the mean of its paraphrases. Paraphrases are a person's
  (`--paraphrases`), or made by swapping phrases that surveys use (REWORDINGS); an item in which none
  stands is left out and counted. Printed questions are smoother than reworded ones for any model, so the
  sign is only one against a control: items that were never published, reworded by the same rules.
- `order`: question and options in the printed order minus the mean of shuffled ones, where the options
  are no scale and any order is as good (the exchangeability test of Oren et al. 2024). It needs no
  control: without having read the survey the expected difference is 0, but for a liking for alphabetical
  or rising lists.

Neither proves that a model has not seen an item.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.statistics import Interval, clustered_interval
from cultural_palette.evaluation.surveys import SurveyQuestion

Likelihood = Callable[[str], float]
"""Mean natural log-probability per token of a text."""
SHUFFLES = 4
MOST_PARAPHRASES = 4
REWORDINGS: tuple[tuple[str, str], ...] = (
    (r"\bDo you think\b", "Would you say"),
    (r"\bdo you think\b", "would you say"),
    (r"\bplease tell me\b", "kindly say"),
    (r"\bPlease tell me\b", "Kindly say"),
    (r"\bwould you say\b", "do you think"),
    (r"\bWould you say\b", "Do you think"),
    (r"\bhow much\b", "to what extent"),
    (r"\bHow much\b", "To what extent"),
    (r"\bin general\b", "generally speaking"),
    (r"\bgenerally\b", "on the whole"),
    (r"\bvery important\b", "of great importance"),
    (r"\bimportant\b", "of importance"),
    (r"\bhow often\b", "how frequently"),
    (r"\bHow often\b", "How frequently"),
    (r"\bour country\b", "this country"),
    (r"\bcountry\b", "nation"),
    (r"\bpeople\b", "persons"),
    (r"\bchildren\b", "kids"),
    (r"\bgovernment\b", "administration"),
    (r"\bproblem\b", "difficulty"),
    (r"\btrust\b", "have faith in"),
    (r"\bconfidence\b", "faith"),
    (r"\bopinion\b", "view"),
    (r"\bfavorable\b", "positive"),
    (r"\bsatisfied\b", "content"),
    (r"\bbelieve\b", "think"),
    (r"\bgood\b", "positive"),
    (r"\bbad\b", "negative"),
)


@dataclass(frozen=True)
class Signs:
    """`wording` and `order`: log-probability per token that the printed form gains (None without any item);
    `without_paraphrase`, `without_order`: questions left out of each.
    """

    wording: Interval | None
    order: Interval | None
    without_paraphrase: int
    without_order: int


def paraphrases(text: str) -> tuple[str, ...]:
    """The question with one stock phrase swapped, each in its turn, and with all of them; none where none
    stands.
    """
    single = [re.sub(old, new, text) for old, new in REWORDINGS]
    every = text
    for old, new in REWORDINGS:
        if re.search(old, text):
            every = re.sub(old, new, every)
    other = dict.fromkeys(one for one in (*single, every) if one != text)
    return tuple(itertools.islice(other, MOST_PARAPHRASES))


def shuffled(question: SurveyQuestion, seed: int = 0) -> tuple[str, ...]:
    """Question and options in other orders; none where the options are a scale or too few to shuffle."""
    if question.ordered or len(question.options) < 3:
        return ()
    orders = [order for order in itertools.permutations(question.options) if order != question.options]
    random.Random(f"{seed}/{question.id}").shuffle(orders)
    return tuple(_listed(question.text, order) for order in orders[:SHUFFLES])


def signs_of(
    questions: Sequence[SurveyQuestion],
    likelihood: Likelihood,
    own: Mapping[str, Sequence[str]] | None = None,
    *,
    seed: int = 0,
    permutations: int = 10_000,
) -> Signs:
    """Both signs over some questions. `own`: a person's paraphrases by question id, instead of the rules'."""
    wording, order = [], []
    for question in questions:
        rewordings = tuple((own or {}).get(question.id, ())) or (() if own else paraphrases(question.text))
        if rewordings:
            gain = likelihood(question.text) - sum(map(likelihood, rewordings)) / len(rewordings)
            wording.append((gain, question.battery))
        if others := shuffled(question, seed):
            printed = likelihood(_listed(question.text, question.options))
            order.append((printed - sum(map(likelihood, others)) / len(others), question.battery))
    return Signs(
        _interval(wording, permutations), _interval(order, permutations),
        len(questions) - len(wording), len(questions) - len(order),
    )  # fmt: skip


def model_likelihood(model: str) -> Likelihood:
    """Of a causal language model, a folder or a name on the hub, on the CPU or what torch finds.

    Raises UsageError for what is no such model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network: Any = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
        network.eval()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--model {model!r} is no causal language model: {reason}") from None
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    def likelihood(text: str) -> float:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[start, *ids] if start is not None else ids])
        with torch.inference_mode():
            logprobs = network(tokens).logits[0, :-1].log_softmax(-1)
        return float(logprobs.gather(1, tokens[0, 1:, None]).mean())

    return likelihood


def _listed(text: str, options: Sequence[str]) -> str:
    return "\n".join([text, *(f"- {option}" for option in options)])


def _interval(gains: Sequence[tuple[float, str]], permutations: int) -> Interval | None:
    if not gains:
        return None
    return clustered_interval(
        [gain for gain, _ in gains], [battery for _, battery in gains], permutations=permutations
    )
