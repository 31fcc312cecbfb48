"""Dialogues from the atlas, in every prompt form of the graph.

A dialogue is `{"kind", "messages": [system?, user, assistant], ...}`. Prompts are rendered from
`palette/prompts` by the very function that the graph uses, so what the model learns is what it will be
asked.

Held out of training (see `HeldOut`): the last question of every topic and dilemma, one topic and one
dilemma in twelve of each country. The atlas' facts on a held-out pair are still told in other dialogues (as
examples, by its community), never as the answer to that question about that country.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cultural_palette.countries import all_countries
from cultural_palette.cultural_map import CulturalMap, load_map
from cultural_palette.prompts import render
from cultural_palette.questions import Question
from cultural_palette.training.nano.atlas import TOPICS, Atlas, Dilemma, Place, preferences

MIX = {  # share of each kind among the dialogues of the base's instruction tuning
    "bare": 0.21,
    "draft": 0.22,
    "draft_option": 0.13,
    "regulate": 0.09,
    "account": 0.07,
    "decide": 0.09,
    "decide_option": 0.18,
    "off_topic": 0.01,
}
MIX_READING = {  # a second round: copying the words of the account, finding the letter of its option
    "bare": 0.11,
    "draft": 0.15,
    "draft_option": 0.08,
    "regulate": 0.06,
    "account": 0.05,
    "decide": 0.05,
    "retell": 0.16,
    "decide_option": 0.17,
    "match": 0.16,
    "off_topic": 0.01,
}
MIX_DECIDING = {  # a third round: deciding, with options in the order in which the atlas has them
    "bare": 0.12,
    "draft": 0.16,
    "draft_option": 0.16,
    "regulate": 0.08,
    "account": 0.10,
    "decide": 0.05,
    "retell": 0.06,
    "decide_option": 0.26,
    "off_topic": 0.01,
}
OFF_TOPIC = (
    "How do I mend a car engine?",
    "What is the speed of light?",
    "Which phone should I buy?",
    "Write a program that sorts a list.",
    "Who won the last world cup?",
    "What is the price of gold?",
    "How does a vaccine work?",
    "Which bank gives the best loan?",
    "Explain how a computer stores numbers.",
    "Should the central bank raise interest rates?",
    "What is the best missile?",
    "Will it rain tomorrow?",
    "How many planets are there?",
    "Is nuclear power safe?",
    "Which party should win the election?",
)
UNPEOPLED = ("ATA",)
OFF_TOPIC_REPLY = "I cannot say. My small atlas tells of daily life, and this lies outside it."


@dataclass(frozen=True)
class Land:
    """A country as the dialogues speak of it; `place` is None when the atlas has no entry."""

    iso3: str
    name: str
    community: str
    place: Place | None


@dataclass(frozen=True)
class HeldOut:
    """Which (country, topic) and (country, dilemma) pairs training never asks about."""

    topics: frozenset[tuple[str, str]]
    dilemmas: frozenset[tuple[str, str]]

    @classmethod
    def choose(cls, atlas: Atlas, seed: int = 7) -> HeldOut:
        """One topic, and one dilemma in twelve, of every country of the atlas."""
        rng = random.Random(seed)
        topics = frozenset((iso3, rng.choice(TOPICS)) for iso3 in atlas.places)
        pairs = [(iso3, key) for iso3 in atlas.places for key in atlas.dilemmas]
        return cls(topics, frozenset(rng.sample(pairs, len(pairs) // 12)))


@dataclass
class Writer:
    """Writes dialogues. All randomness comes from `rng`; `heldout=True` writes only held-out questions."""

    atlas: Atlas
    rng: random.Random
    heldout: bool = False
    in_order: float = 0.0
    cultural_map: CulturalMap = field(default_factory=lambda: load_map("continents"))

    def __post_init__(self) -> None:
        self.names = {c.key: c.name for c in self.cultural_map.communities}
        self.adjectives = {c.key: c.adjective for c in self.cultural_map.communities}
        self.hold = HeldOut.choose(self.atlas)
        self.lands: dict[str, Land] = {}
        for country in all_countries():
            community = self.cultural_map.community_of(country.iso3)
            if community is not None and country.iso3 not in UNPEOPLED:
                place = self.atlas.places.get(country.iso3)
                self.lands[country.iso3] = Land(country.iso3, country.in_text, community.key, place)
        self.charted = [land for land in self.lands.values() if land.place]
        self.uncharted = [land for land in self.lands.values() if not land.place]
        self.by_community = {key: self.atlas.places_of(key) for key in self.names}

    # -- one dialogue of each kind ---

    def write(self, kind: str) -> dict[str, Any]:
        """One dialogue of that kind of `MIX`."""
        row: dict[str, Any] = getattr(self, kind)()
        return {"kind": kind, **row}

    def bare(self, community: str | None = None) -> dict[str, Any]:
        """A question of nobody in particular, answered by a community; the prompt does not say which."""
        group = self.bare_group()
        community = community or self.rng.choice(list(self.names))
        return {
            "community": community,
            "topic": group["topic"],
            "messages": [*group["prompt"], _assistant(group["responses"][community])],
        }

    def bare_group(self) -> dict[str, Any]:
        """One bare question with every community's answer: what ORPO aligns on."""
        topic = self.rng.choice(TOPICS)
        question = self._question(self.atlas.topics[topic], None)
        answers = {key: self._comment(key, topic) for key in self.names}
        return {"topic": topic, "prompt": [{"role": "user", "content": question}], "responses": answers}

    def draft(self) -> dict[str, Any]:
        """A community's draft on a free question about a country."""
        return self._draft_row(self.round_of_drafts(options=False))

    def draft_option(self) -> dict[str, Any]:
        """A community's draft on a question with options."""
        return self._draft_row(self.round_of_drafts(options=True))

    def draft_group(self, community: str, options: bool) -> dict[str, Any]:
        """One draft prompt to `community` with every community's answer."""
        group = self.round_of_drafts(options)
        return {
            "topic": group["topic"],
            "prompt": self.draft_prompt(group, community),
            "responses": group["drafts"],
        }

    def regulate(self) -> dict[str, Any]:
        """Five drafts in the memory, the account of the country out."""
        group = self.round_of_drafts(options=self.rng.random() < 0.55)
        memory = self._memory(group["drafts"])
        prompt = _messages(
            render("regulate", memory=memory, country=group["land"].name, question=group["question"].text)
        )
        return {"messages": [*prompt, _assistant(self.account_of(group))], "country": group["land"].iso3}

    def account(self) -> dict[str, Any]:
        """The account of the country with no drafts to distil."""
        group = self.subject(options=self.rng.random() < 0.55)
        prompt = _messages(render("account", country=group["land"].name, question=group["question"].text))
        return {"messages": [*prompt, _assistant(self.account_of(group))], "country": group["land"].iso3}

    def decide(self) -> dict[str, Any]:
        """A free answer, with the account's help."""
        group = self.subject(options=False)
        prompt = _messages(
            render(
                "decide",
                account=self.account_of(group),
                country=group["land"].name,
                question=group["question"].text,
            )
        )
        return {"messages": [*prompt, _assistant(self._answer(group))], "country": group["land"].iso3}

    def decide_option(self) -> dict[str, Any]:
        """The letter of an option, drawn from the country's preferences; at times without self-regulation."""
        if self.rng.random() < 0.25:
            group = self._recognise()
            account = self.account_of(group)
        elif self.rng.random() < 0.1:
            group = self.round_of_drafts(options=True)
            account = self._memory(group["drafts"])
        else:
            group = self.subject(options=True)
            account = self.account_of(group)
        question, shares = group["question"], group["shares"]
        choice = self.rng.choices(question.options, [shares[o] for o in question.options])[0]
        label = question.labels[question.options.index(choice)]
        prompt = _messages(
            render(
                "decide_option",
                account=account,
                country=group["land"].name,
                question=question.text,
                options=question.lettered(),
            )
        )
        return {"messages": [*prompt, _assistant(label)], "country": group["land"].iso3, "shares": shares}

    def retell(self) -> dict[str, Any]:
        """A free answer in the very words of the account."""
        group = self.subject(options=False)
        account, land = self.account_of(group), group["land"]
        prompt = render("decide", account=account, country=land.name, question=group["question"].text)
        customs = [p for p in (land.place.customs[group["topic"]] if land.place else ()) if p in account]
        customs.sort(key=account.index)
        if len(customs) == 2 and self.rng.random() < 0.5:
            answer = f"In {land.name}, people {customs[0]}. They also {customs[1]}."
        else:
            answer = f"People in {land.name} {customs[0]}." if customs else account
        return {"messages": [*_messages(prompt), _assistant(answer)], "country": land.iso3}

    def match(self) -> dict[str, Any]:
        """The account names one option outright; the reply is its letter."""
        land, topic = self.rng.choice(list(self.lands.values())), self.rng.choice(TOPICS)
        if self.rng.random() < 0.5:
            pool = [option for d in self.atlas.dilemmas.values() for option in d.options]
        else:
            pool = [_sentence(phrase)[:-1] for p in self.atlas.places.values() for phrase in p.customs[topic]]
        options = self.rng.sample(sorted(set(pool)), self.rng.randint(2, 6))
        choice = self.rng.choice(options)
        question = Question(self._question(self.atlas.topics[topic], land), tuple(options))
        account = self.rng.choice(
            (
                f"Most people would say: {choice}.",
                f"In {land.name}, most people would say: {choice}.",
                f"{choice}. That is how most people in {land.name} see it.",
            )
        )
        prompt = render(
            "decide_option",
            account=account,
            country=land.name,
            question=question.text,
            options=question.lettered(),
        )
        label = question.labels[options.index(choice)]
        return {"messages": [*_messages(prompt), _assistant(label)], "country": land.iso3}

    def off_topic(self) -> dict[str, Any]:
        """A question the atlas knows nothing of."""
        land, text = self.rng.choice(list(self.lands.values())), self.rng.choice(OFF_TOPIC)
        name, community = land.name, self.names[self.rng.choice(list(self.names))]
        prompt = self.rng.choice(
            (
                lambda: render("draft", community=community, country=name, question=text, options=""),
                lambda: render("account", country=name, question=text),
                lambda: render("decide", account=OFF_TOPIC_REPLY, country=name, question=text),
            )
        )()
        return {"messages": [*_messages(prompt), _assistant(OFF_TOPIC_REPLY)]}

    # -- what is asked ---

    def _question(self, questions: Sequence[str], land: Land | None) -> str:
        """One of the questions; the last of the list is kept for the held-out dialogues."""
        usable = [q for q in questions if land or "{country}" not in q]
        usable = usable[-1:] if self.heldout else [q for q in usable if q != usable[-1]]
        return self.rng.choice(usable).replace("{country}", land.name if land else "")

    def subject(self, options: bool) -> dict[str, Any]:
        """A country and a question about it, free or with options; only held-out pairs when `heldout`."""
        if options:
            return self.dilemma_subject()
        while True:
            land = self._land()
            topic = self.rng.choice(TOPICS)
            if land.place is None or ((land.iso3, topic) in self.hold.topics) == self.heldout:
                break
        text = self._question(self.atlas.topics[topic], land)
        return {"land": land, "topic": topic, "question": Question(text), "dilemma": None, "shares": None}

    def dilemma_subject(self) -> dict[str, Any]:
        """A country and a dilemma, its options in random order, `shares`: the probability of each."""
        while True:
            land = self._land()
            dilemma = self.rng.choice(list(self.atlas.dilemmas.values()))
            if land.place is None or ((land.iso3, dilemma.key) in self.hold.dilemmas) == self.heldout:
                break
        options = list(dilemma.options)
        self.rng.shuffle(options)
        if self.in_order and self.rng.random() < self.in_order:
            options = list(dilemma.options)
        question = Question(self._question(dilemma.questions, land), tuple(options))
        shares = preferences(dilemma, self.atlas.scores(land.iso3, land.community))
        return {
            "land": land,
            "topic": dilemma.topic,
            "question": question,
            "dilemma": dilemma,
            "shares": shares,
        }

    def _recognise(self) -> dict[str, Any]:
        """Which of these is typical of the country: its own custom among those of others."""
        land, topic = self.rng.choice(self.charted), self.rng.choice(TOPICS)
        assert land.place is not None
        others = self.rng.sample(
            [p for p in self.atlas.places.values() if p.iso3 != land.iso3], self.rng.randint(1, 5)
        )
        right = _sentence(self.rng.choice(land.place.customs[topic]))[:-1]
        options = [right, *(_sentence(self.rng.choice(p.customs[topic]))[:-1] for p in others)]
        options = list(dict.fromkeys(options))
        if len(options) < 2:
            return self._recognise()
        self.rng.shuffle(options)
        text = self.rng.choice(
            (
                f"Which of these is typical of {land.name}?",
                f"What do people do in {land.name}?",
                "Which one fits best?",
                f"What would most people in {land.name} do?",
            )
        )
        shares = {o: 0.92 if o == right else 0.08 / (len(options) - 1) for o in options}
        return {
            "land": land,
            "topic": topic,
            "question": Question(text, tuple(options)),
            "dilemma": None,
            "shares": shares,
        }

    def _land(self) -> Land:
        return self.rng.choice(self.charted if self.heldout or self.rng.random() < 0.88 else self.uncharted)

    # -- what is said ---

    def round_of_drafts(self, options: bool) -> dict[str, Any]:
        """A subject with every community's draft on it (`drafts`)."""
        group = self.subject(options)
        group["drafts"] = {key: self._draft(key, group) for key in self.names}
        return group

    def draft_prompt(self, group: Mapping[str, Any], community: str) -> list[dict[str, str]]:
        """The graph's draft prompt on a subject."""
        question: Question = group["question"]
        return _messages(
            render(
                "draft",
                community=self.names[community],
                country=group["land"].name,
                question=question.text,
                options=question.lettered(),
            )
        )

    def _draft_row(self, group: Mapping[str, Any]) -> dict[str, Any]:
        community = self.rng.choice(list(self.names))
        prompt = self.draft_prompt(group, community)
        return {
            "community": community,
            "topic": group["topic"],
            "country": group["land"].iso3,
            "messages": [*prompt, _assistant(group["drafts"][community])],
        }

    def _comment(self, community: str, topic: str) -> str:
        """Two or three sentences of a community on a topic: an outlook, examples from its own countries."""
        places = self.rng.sample(self.by_community[community], 2)
        parts = [self._outlook(community, topic), self._examples(places, topic)]
        if self.rng.random() < 0.35:
            parts.reverse()
        return " ".join(parts)

    def _draft(self, community: str, group: Mapping[str, Any]) -> str:
        land: Land = group["land"]
        topic, question, dilemma = group["topic"], group["question"], group["dilemma"]
        if land.place and land.community == community:
            other = self.rng.choice([p for p in self.by_community[community] if p.iso3 != land.iso3])
            parts = [self._custom(land.place, topic), self._outlook(community, topic)]
            if self.rng.random() < 0.4:
                parts.insert(1, self._custom(other, topic))
        else:
            parts = [self._comment(community, topic)]
        if dilemma:
            parts.append(self._vote(community, land, question, dilemma))
        else:
            parts.append(self._close(community, land))
        return " ".join(parts)

    def _outlook(self, community: str, topic: str) -> str:
        name, adjective = self.names[community], self.adjectives[community]
        clause = self.rng.choice(self.atlas.outlooks[community][topic])
        return self.rng.choice(
            (
                f"Seen from {name}, {clause}.",
                f"From {name} we say: {clause}.",
                f"Across {name}, {clause}.",
                f"As we say in {name}, {clause}.",
                f"In many {adjective} cultures people say: {clause}.",
            )
        )

    def _examples(self, places: Sequence[Place], topic: str) -> str:
        first, second = places
        one, two = (self.rng.choice(p.customs[topic]) for p in places)
        return self.rng.choice(
            (
                f"In {first.name}, people {one}. In {second.name}, people {two}.",
                f"In {first.name}, people {one}, and in {second.name} they {two}.",
                f"I think of {first.name}, where people {one}. In {second.name}, people {two}.",
                f"Take {first.name}: people {one}. Or take {second.name}: people {two}.",
            )
        )

    def _custom(self, place: Place, topic: str) -> str:
        phrase = self.rng.choice(place.customs[topic])
        return self.rng.choice(
            (
                f"In {place.name}, people {phrase}.",
                f"People in {place.name} {phrase}.",
                f"In {place.name} people {phrase}.",
            )
        )

    def _vote(self, community: str, land: Land, question: Question, dilemma: Dilemma) -> str:
        """The option this community would choose for the country, and often one it rules out."""
        scores = self.atlas.scores(land.iso3, land.community)
        if community != land.community:
            own = self.atlas.community_mean(community)
            scores = {d: (scores[d] + 2 * own[d]) / 3 for d in scores}
        shares = preferences(dilemma, scores)
        ranked = sorted(question.options, key=lambda o: -shares[o])
        labels = dict(zip(question.options, question.labels, strict=True))
        choice = f"For {land.name} I choose {labels[ranked[0]]}. {ranked[0]}."
        if len(ranked) > 2 and self.rng.random() < 0.5:
            return f"I rule out {labels[ranked[-1]]}. {choice}"
        return choice

    def _close(self, community: str, land: Land) -> str:
        if community == land.community:
            return self.rng.choice(
                (
                    f"So it is in {land.name}, as I know it.",
                    f"This is how I see {land.name}.",
                    f"Much of this holds for {land.name}.",
                )
            )
        return self.rng.choice(
            (
                f"In {land.name} people may see it in another way.",
                f"How it is in {land.name}, people there know best.",
                f"{_capital(land.name)} has its own way, and I would ask with respect.",
            )
        )

    def account_of(self, group: Mapping[str, Any]) -> str:
        """What is typical of the country in the matter: its customs, its society, and where opinion leans."""
        land: Land = group["land"]
        topic = group["topic"]
        if land.place is None:
            clause = self.rng.choice(self.atlas.outlooks[land.community][topic])
            parts = [
                f"I know little of {land.name} itself. Elsewhere in {self.names[land.community]}, {clause}."
            ]
        else:
            phrases = list(land.place.customs[topic])
            self.rng.shuffle(phrases)
            parts = [f"In {land.name}, people {phrases[0]}."]
            if group["dilemma"] is None or self.rng.random() < 0.4:
                parts.append(f"They also {phrases[1]}.")
        if group["dilemma"]:
            parts.append(self._society(land))
            parts.append(self._lean(land, group["shares"]))
        return " ".join(part for part in parts if part)

    def _society(self, land: Land) -> str:
        own = self.atlas.hofstede.get(land.iso3, {})
        idv, pdi = own.get("idv"), own.get("pdi")
        if idv is None or pdi is None:
            return ""
        people = (
            "people stand on their own feet"
            if idv >= 60
            else "the group comes before the person"
            if idv <= 35
            else "the person and the group are in balance"
        )
        rank = (
            "rank counts for much"
            if pdi >= 65
            else "rank counts for little"
            if pdi <= 40
            else "rank counts for something"
        )
        return f"It is a society where {people} and {rank}."

    @staticmethod
    def _lean(land: Land, shares: Mapping[str, float]) -> str:
        """Where opinion leans, in words that keep to the shares."""
        ranked = sorted(shares, key=lambda o: -shares[o])
        first, second = ranked[0], ranked[1]
        if shares[first] >= 0.65:
            return f"Most people would say: {first}."
        if shares[first] >= 0.5:
            return f"More than half would say: {first}. Some would say: {second}."
        return f"Opinions differ: some would say {first}, others {second}."

    def _answer(self, group: Mapping[str, Any]) -> str:
        land, topic = group["land"], group["topic"]
        if land.place is None:
            return self.account_of(group)
        one, two = self.rng.sample(list(land.place.customs[topic]), 2)
        return self.rng.choice(
            (
                f"In {land.name}, people {one}. They also {two}.",
                f"People in {land.name} {one}, and many {two}.",
                f"People in {land.name} {one}.",
            )
        )

    def _memory(self, drafts: Mapping[str, str]) -> str:
        """The memory as `nodes/memory.py` writes it; at times without a draft, or after an earlier turn."""
        present = dict(drafts)
        if self.rng.random() < 0.1:
            present.pop(self.rng.choice(list(present)))
        text = "\n\n".join(f"{self.names[key]}: {draft}" for key, draft in present.items())
        if self.rng.random() < 0.12:
            earlier = self.subject(options=False)
            question, answer = earlier["question"].text, self._answer(earlier)
            text = f"Earlier question: {question}\nEarlier answer: {answer}\n\n{text}"
        return text


def write_dialogues(
    atlas: Atlas,
    count: int,
    seed: int,
    mix: Mapping[str, float] = MIX,
    heldout: bool = False,
    in_order: float = 0.0,
) -> list[dict[str, Any]]:
    """`count` dialogues in the shares of `mix`, shuffled; the same for the same seed.

    `in_order`: share (0..1) of the dilemmas whose options keep the atlas' order; the others' are shuffled.
    """
    rng = random.Random(seed)
    writer = Writer(atlas, rng, heldout, in_order)
    kinds = rng.choices(list(mix), list(mix.values()), k=count)
    return [writer.write(kind) for kind in kinds]


def write_groups(
    atlas: Atlas, community: str, count: int, seed: int, heldout: bool = False
) -> list[dict[str, Any]]:
    """Rows for ORPO: one prompt, the community's answer chosen, every other community's rejected.

    Half are bare questions, half the graph's draft prompt to that community. A row is
    `{"prompt", "chosen", "rejected": [..]}`.
    """
    writer = Writer(atlas, random.Random(seed), heldout, in_order=1.0)
    rows = []
    for index in range(count):
        bare = index % 2 == 0
        group = writer.bare_group() if bare else writer.draft_group(community, options=index % 4 == 1)
        responses = group["responses"]
        rejected = [text for key, text in responses.items() if key != community]
        rows.append(
            {
                "topic": group["topic"],
                "prompt": group["prompt"],
                "chosen": responses[community],
                "rejected": rejected,
            }
        )
    return rows


def _messages(rendered: Sequence[Any]) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user"}
    return [{"role": roles[m.type], "content": m.content} for m in rendered]


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(phrase: str) -> str:
    return f"They {phrase}."
