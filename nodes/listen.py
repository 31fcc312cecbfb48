"""The chat's first node: reads country, question and options off what a person wrote, or asks for them.

Where the country stands: the input's `country`, the run's context, the message ("in Kenya", "Kenyans"), else
the thread's own from the turn before. The first of these wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph.ui import AnyUIMessage, ui_message_reducer
from langgraph.runtime import Runtime
from pydantic import Field
from typing_extensions import TypedDict

from cultural_palette.countries import Country, find_country
from cultural_palette.errors import QuestionError, UsageError
from cultural_palette.mentions import countries_in, country_alone, options_in
from cultural_palette.nodes.events import Clarification, emit
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.nodes.state import PaletteOutput, PaletteState
from cultural_palette.nodes.turn import ASIDE
from cultural_palette.questions import Question

WHICH_COUNTRY = "Which country should answer? Name one, such as Kenya or New Zealand."
MOST_WORDS_OF_A_COUNTRY = 4


class ChatContext(PaletteContext):
    """The knobs of one run, and whose answer is wanted."""

    country: str | None = Field(
        default=None,
        description="Whose answer: an ISO code or a name; left out: the one that the message names.",
        examples=["KEN", "New Zealand"],
    )


class Pending(TypedDict):
    """A question that waits for its country."""

    query: str
    options: list[str]


class ChatOutput(PaletteOutput, total=False):
    """The answer and everything it was made from; `ui`: the same for a page that draws it beside the message.
    `failed`: why there is no answer, in words.
    """

    ui: Annotated[list[AnyUIMessage], ui_message_reducer]
    failed: str | None


class ChatState(PaletteState, ChatOutput, total=False):
    """The chat's own: `thread_country`, ISO code of the last turn's country; `pending`, a question that waits
    for its country.
    """

    thread_country: str | None
    pending: Pending | None


class _NeedsMore(Exception):
    """What has to be asked, and the question that waits meanwhile."""

    def __init__(self, text: str, pending: Pending) -> None:
        super().__init__(text)
        self.pending = pending


async def listen(state: ChatState, runtime: Runtime[ChatContext]) -> dict[str, Any]:
    """Country, question and options of this turn; or a message that asks for what is missing, or says what is
    wrong with what came.
    """
    try:
        return _heard(state, getattr(runtime.context, "country", None))
    except _NeedsMore as more:
        emit(runtime, Clarification(str(more)))
        return _aside(state, str(more), pending=more.pending)
    except UsageError as error:
        emit(runtime, Clarification(str(error)))
        return _aside(state, str(error), failed=str(error))


def is_settled(state: ChatState) -> bool:
    """Whether there is a question to answer now: the last word is the person's."""
    messages = state.get("messages") or []
    return bool(messages) and isinstance(messages[-1], HumanMessage)


def _heard(state: ChatState, from_context: str | None) -> dict[str, Any]:
    given: Mapping[str, Any] = state
    messages = state.get("messages") or []
    written = messages[-1].text if messages and isinstance(messages[-1], HumanMessage) else None
    query, listed = given.get("query"), given.get("options")
    if query is None and written is None:
        raise QuestionError("Nothing was asked: write a question.")
    text = Question.read(written if query is None else query).text
    named = given.get("country")
    explicit = named if named not in (None, "", state.get("thread_country")) else from_context
    pending = state.get("pending")
    if pending is not None and query is None and (reply := _reply(text)) is not None:
        return _settled(reply, pending["query"], pending["options"])
    question_text, options = (text, listed) if listed is not None else options_in(text)
    question = Question.read(question_text, options)
    waiting = Pending(query=question.text, options=list(question.options))
    country = _country(text, explicit, state.get("thread_country"), waiting)
    update = _settled(country, question.text, question.options)
    if written is None or (query is not None and written.strip() != text):
        update["messages"] = [HumanMessage(text)]
    return update


def _reply(text: str) -> Country | None:
    """The country of a reply to "Which country?"; None where it is another question. Raises UnknownCountry
    for a word or two that name none.
    """
    if (country := country_alone(text)) is not None:
        return country
    if len(text.split()) <= MOST_WORDS_OF_A_COUNTRY and not text.endswith("?") and not countries_in(text).all:
        return find_country(text)
    return None


def _country(text: str, explicit: str | None, of_thread: str | None, waiting: Pending) -> Country:
    if explicit is not None:
        return find_country(explicit)
    mentions = countries_in(text)
    if len(mentions.located) == 1:
        return mentions.located[0]
    if len(mentions.located) > 1:
        names = _either([country.name for country in mentions.located])
        raise _NeedsMore(f"One country answers at a time: {names}?", waiting)
    if of_thread is not None:
        return find_country(of_thread)
    if mentions.others:
        names = _either([country.name for country in mentions.others])
        raise _NeedsMore(f"Which country should answer? {names}, or another one?", waiting)
    raise _NeedsMore(WHICH_COUNTRY, waiting)


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _settled(country: Country, query: str, options: Sequence[str]) -> dict[str, Any]:
    return {
        "country": country.iso3,
        "thread_country": country.iso3,
        "query": query,
        "options": list(options),
        "pending": None,
        "failed": None,
    }


def _aside(state: ChatState, text: str, **update: Any) -> dict[str, Any]:
    """A message that answers no question. Nothing of an earlier turn's answer stays beside it, and no country
    that could not be read.
    """
    return {
        "country": state.get("thread_country"),
        "failed": None,
        "answer": None,
        "distribution": None,
        "blend": None,
        "messages": [AIMessage(text, additional_kwargs={ASIDE: True})],
        **update,
    }
