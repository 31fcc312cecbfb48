"""The chat: a message in, a message out, whatever the message holds."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from cultural_palette.graph.chat import build_chat
from cultural_palette.models import Blend
from tests.nodes.helpers import KEYS

MODELS = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}


class Chat:
    """A thread of the chat graph, spoken to as a generic client does: with `messages` alone."""

    def __init__(self) -> None:
        self.graph = build_chat(checkpointer=InMemorySaver())
        self.state: dict[str, Any] = {}

    async def say(self, text: str, context: Any = None, **inputs: Any) -> str:
        self.state = await self.graph.ainvoke(
            {"messages": [HumanMessage(text)], **inputs},
            {"configurable": {"thread_id": "1"}},
            context={"models": MODELS, **(context or {})},
        )
        last = self.state["messages"][-1]
        assert isinstance(last, AIMessage)
        return last.text


@pytest.fixture
def chat(script) -> Chat:
    return Chat()


async def test_the_first_message_is_answered(chat: Chat, script) -> None:
    assert await chat.say("What do people eat in Kenya?") == "meta speaks."
    assert (chat.state["country"], chat.state["query"]) == ("KEN", "What do people eat in Kenya?")
    assert [m.type for m in chat.state["messages"]] == ["human", "ai"]
    (ui,) = chat.state["ui"]
    assert ui["metadata"]["message_id"] == chat.state["messages"][-1].id
    assert ui["props"]["drafts"]["asia"]["text"] == "asia speaks." and ui["props"]["answer"] == "meta speaks."


async def test_without_a_country_it_asks_and_then_answers_what_was_asked(chat: Chat, script) -> None:
    assert await chat.say("What is a good life?") == (
        "Which country should answer? Name one, such as Kenya or New Zealand."
    )
    assert script.asked == [] and chat.state["answer"] is None
    assert await chat.say("Kenya, please") == "meta speaks."
    assert (chat.state["country"], chat.state["query"]) == ("KEN", "What is a good life?")
    assert "What is a good life?" in script.prompts_of("asia")[0]


async def test_several_countries_ask_which(chat: Chat, script) -> None:
    assert (
        await chat.say("What is tea in Kenya and Japan?") == "One country answers at a time: Kenya or Japan?"
    )
    await chat.say("Japan")
    assert chat.state["country"] == "JPN"


async def test_a_country_that_is_only_named_is_not_taken(chat: Chat, script) -> None:
    assert await chat.say("Is China a threat?") == "Which country should answer? China, or another one?"
    assert await chat.say("in the UK") == "meta speaks."
    assert (chat.state["country"], chat.state["query"]) == ("GBR", "Is China a threat?")


async def test_the_country_stays_until_another_is_asked_for(chat: Chat, script) -> None:
    await chat.say("What do Kenyans eat?")
    await chat.say("Is China a threat?")
    assert chat.state["country"] == "KEN"
    await chat.say("And in Japan?")
    assert chat.state["country"] == "JPN"


async def test_context_and_input_say_whose_answer(chat: Chat, script) -> None:
    await chat.say("What is tea in Japan?", context={"country": "KEN"})
    assert chat.state["country"] == "KEN"
    await chat.say("What is tea in Japan?", country="New Zealand", context={"country": "KEN"})
    assert chat.state["country"] == "NZL"


async def test_options_in_the_text_make_a_distribution(chat: Chat, script) -> None:
    script.option_logprobs = [-0.1, -2.4]
    script.blend = Blend.over(KEYS, [[0.2] * 5])
    assert await chat.say("Which matters more to Kenyans?\nA) Freedom\nB) Equality") == "Freedom"
    assert chat.state["options"] == ["Freedom", "Equality"] and chat.state["blend"]
    assert chat.state["query"] == "Which matters more to Kenyans?"
    assert [m.type for m in chat.state["messages"]] == ["human", "ai"]


async def test_what_asked_back_is_no_earlier_turn(chat: Chat, script) -> None:
    await chat.say("What is a good life?")
    await chat.say("Kenya")
    await chat.say("And at work?")
    earlier = chat.state["memory"].split("\n\n")[0]
    assert earlier == "Earlier question: What is a good life?\nEarlier answer: meta speaks."


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"country": "Kenia"}, "Did you mean KEN (Kenya)"),
        ({"country": 5}, "country = 5 is no text"),
        ({"options": "Yes", "country": "KEN"}, "options = 'Yes' is one text"),
        ({"options": ["Yes"], "country": "KEN"}, "2 to 40 options"),
    ],
)
async def test_bad_input_is_said_in_words(chat: Chat, script, inputs: Any, words: str) -> None:
    assert words in await chat.say("Tea?", **inputs)
    assert chat.state["failed"] and script.asked == []
    assert await chat.say("What do Kenyans drink?") == "meta speaks.", "the thread goes on"
    assert chat.state["failed"] is None


async def test_models_that_fail_are_said_in_words(chat: Chat, script) -> None:
    script.replies["*"] = RuntimeError("no power")
    text = await chat.say("What do Kenyans eat?")
    assert text.startswith("Only 0 of 5 drafts came") and "no power" in text
    assert chat.state["answer"] is None and chat.state["degraded"] == [text]


async def test_a_reply_that_names_no_country_is_told_so_and_the_question_waits(chat: Chat, script) -> None:
    await chat.say("What is a good life?")
    assert "Did you mean KEN (Kenya)" in await chat.say("Kenia")
    await chat.say("Kenya")
    assert chat.state["query"] == "What is a good life?"


async def test_one_bubble_streams_and_drafts_come_labelled(chat: Chat, script) -> None:
    bubbles: dict[str, str] = {}
    labelled = set()
    async for mode, part in chat.graph.astream(
        {"messages": [HumanMessage("What do Kenyans eat?")]},
        {"configurable": {"thread_id": "2"}},
        context={"models": MODELS},
        stream_mode=["messages", "custom"],
    ):
        if mode == "messages":
            message, metadata = part
            assert metadata["langgraph_node"] == "decide"
            assert isinstance(message, AIMessageChunk | AIMessage)
            bubbles[message.id] = bubbles.get(message.id, "") + message.text
        elif part["type"] == "draft_token":
            labelled.add(part["community"])
    assert list(bubbles.values()) == ["meta speaks."]
    assert labelled == set(KEYS)
