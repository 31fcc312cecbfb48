"""The embedded engine: base, agents and MoErges in one process, decoded in batches by one worker thread.

There is one copy of the base in memory; what plays a part is which communities' changes a row of the batch
goes through (`cultural_palette.moerges`). Requests that arrive together decode together, whatever their part.
Each row draws from a generator of its own, seeded by the request, so a reply depends on its seed and prompt,
and on what shares the batch only in the last bits of its log-probabilities (padding and batch size choose
other kernels). One that must not depend on them at all decodes `alone`.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

from cultural_palette.embedded.growing import growing_cache
from cultural_palette.embedded.head import quicken
from cultural_palette.embedded.lookahead import guesses
from cultural_palette.embedded.manifest import IN_MEMORY, Manifest, read_manifest
from cultural_palette.embedded.packed import can_pack, pack
from cultural_palette.embedded.parts import META, Part
from cultural_palette.embedded.prepare import prepare
from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.embedded.sampling import Shape, drawn, shaped
from cultural_palette.embedded.stems import Stem, Stems, stem_length
from cultural_palette.errors import ModelError
from cultural_palette.models.tokens import spelling_tokens, tokenisations
from cultural_palette.moerges.adapters import read_adapter
from cultural_palette.moerges.layer import Batch
from cultural_palette.moerges.model import Colours, install
from cultural_palette.moerges.quantised import quantised_by, why_not
from cultural_palette.moerges.router import load_routers

LONGEST_REASON = 300
PADDED = 1.5
GATHER_S = 0.015
"""How long the worker waits for company after the last request arrived. Seconds."""
SMALL = 50_000_000
"""Parameters below which one thread is quicker than several: their steps are too short to share. From here on
reading the weights is most of a step, so they are packed and a lone reply looks ahead.
"""


@dataclass(frozen=True)
class Piece:
    """A step of a reply: new text, the log-probability of its token, and at the end why it ended and, of the
    MoErges, the communities' weights over the prompt: a list a layer, one weight a community.
    """

    text: str
    logprob: float | None = None
    finish_reason: str | None = None
    error: Exception | None = None
    blend: list[list[float]] | None = None


@dataclass(frozen=True)
class LabelReading:
    """`logprobs`: natural, of each label, over all its tokenisations. `blend`: as in Piece."""

    logprobs: list[float]
    blend: list[list[float]] | None


@dataclass(eq=False)
class Generation:
    """One reply to be decoded. `deliver` is called from the worker thread, once a piece. `alone`: in no
    batch, so that the same request gives the same bits whatever else is asked at the time.
    """

    part: str
    prompt: list[int]
    temperature: float
    max_tokens: int
    seed: int | None
    deliver: Callable[[Piece], None]
    alone: bool = False
    shape: Shape | None = None  # None: the temperature alone
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Row:
    """A generation while it decodes."""

    request: Generation
    part: Part
    generator: torch.Generator
    blend: list[list[float]] | None = None
    tokens: list[int] = field(default_factory=list)
    shown: str = ""


@dataclass(eq=False)
class _Call:
    """Something else to be asked of the models. `like`: part and prompt."""

    like: tuple[str, tuple[int, ...]]
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Engine:
    """Models of one palette. Public methods may be called from any thread."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tokenizer, self.model, self.colours, self.small = _load(manifest)
        self.cores = torch.get_num_threads()
        self.window: int = self.model.config.max_position_embeddings
        self._stems = Stems()
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._worker = threading.Thread(target=self._work, name=f"palette-{manifest.name}", daemon=True)
        self._worker.start()
        atexit.register(self.stop)  # a thread amid torch's work as the interpreter ends aborts the process

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the worker, after the step that it is at; what is still queued is never answered."""
        self._stopping.set()
        self._jobs.put(None)
        self._worker.join(timeout_s)

    # -- what callers ask ---

    def encode(self, messages: Sequence[tuple[str, str]], room: int = 0) -> list[int]:
        """Token ids of a chat prompt, (role, text) each, ending where the reply begins.

        Text can not pose as a control token: its `<|` is broken up. Raises ModelError when prompt and
        `room` tokens of reply do not fit the window.
        """
        chat = [{"role": role, "content": text.replace("<|", "< |")} for role, text in messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        if len(ids) + room > self.window:
            raise ModelError(
                f"The prompt has {len(ids):,} tokens, and {room} are kept for the reply; the embedded "
                f"palette {self.manifest.name!r} reads {self.window:,} at most. Ask a shorter question, or "
                "use --model."
            )
        return ids

    def generate(self, request: Generation) -> None:
        """Queue a reply; its pieces go to `request.deliver`."""
        self._queue(request)

    def option_logprobs(self, part: str, prompt: list[int], labels: Sequence[str]) -> Future[LabelReading]:
        """Log-probability (natural) of each label after the prompt, summed over every tokenisation of it; and
        the blend of that very pass.
        """
        return self._submit(part, prompt, lambda: self._option_logprobs(part, prompt, labels))

    def blend(self, prompt: list[int], part: str = META) -> Future[list[list[float]]]:
        """The communities' weights over the prompt: a list a layer, one weight a community. Rows sum to 1."""
        return self._submit(part, prompt, lambda: self._blend(part, prompt))

    def sequence_logprob(self, part: str, ids: list[int], start: int) -> Future[tuple[float, int]]:
        """Summed log-probability (natural) of ids[start:], and their count."""
        return self._submit(part, ids, lambda: self._sequence_logprob(part, ids, start))

    # -- the worker ---

    def _submit(self, part: str, prompt: Sequence[int], run: Callable[[], Any]) -> Future[Any]:
        call = _Call((part, tuple(prompt)), run)
        self._queue(call)
        return call.future

    def _queue(self, job: Any) -> None:
        if not self._worker.is_alive():  # stopped, or left behind by a fork: nobody would ever answer
            raise ModelError(
                f"The embedded palette {self.manifest.name!r} is not running in this process: it was "
                "stopped, or the process was forked off one that had it. Start new processes by 'spawn'."
            )
        self._jobs.put(job)

    def _work(self) -> None:
        if self.small:
            _compute_on(1, self.cores)
        while True:
            jobs = [self._jobs.get(), *self._waiting()]
            generations = [job for job in jobs if isinstance(job, Generation)]
            self._call([job for job in jobs if isinstance(job, _Call)])
            later: list[Any] = []
            while any(not request.alone for request in generations) and not self._stopping.is_set():
                try:
                    job = self._jobs.get(timeout=GATHER_S)
                except queue.Empty:
                    break
                (generations if isinstance(job, Generation) else later).append(job)
            together = [g for g in generations if not g.alone]
            for batch in (*_of_like_length(together), *([g] for g in generations if g.alone)):
                self._guarded(batch)
            self._call([job for job in later if isinstance(job, _Call)])
            if self._stopping.is_set():
                return

    def _waiting(self) -> Iterator[Any]:
        """The jobs that are queued by now."""
        with suppress(queue.Empty):
            while True:
                yield self._jobs.get_nowait()

    def _call(self, calls: Sequence[_Call]) -> None:
        """Answer calls, those of like prompts side by side."""
        for call in sorted(calls, key=lambda call: call.like):
            if not self._stopping.is_set() and call.future.set_running_or_notify_cancel():
                try:
                    call.future.set_result(call.run())
                except Exception as error:
                    call.future.set_exception(error)

    def _guarded(self, batch: list[Generation]) -> None:
        try:
            self._decode(sorted(batch, key=lambda g: (g.part, g.prompt)))
        except Exception as error:
            for request in batch:
                with suppress(Exception):  # one that can not be told must not end the worker for all
                    request.deliver(Piece("", finish_reason="error", error=error))

    @torch.inference_mode()
    def _decode(self, batch: list[Generation]) -> None:
        """Decode a batch to its end, dropping rows as they finish.

        Its steps leave one core to whoever takes the pieces, else they wait for that one.
        """
        before = torch.get_num_threads()
        try:
            self._decode_rows(batch)
        finally:
            _compute_on(before, self.cores)

    def _decode_rows(self, batch: list[Generation]) -> None:
        rows = [_Row(request, self._part(request.part), self._generator(request)) for request in batch]
        ids, mask = self._pad([row.request.prompt for row in rows])
        cache = growing_cache(self.model.config)
        ahead: list[int] = []
        first = True
        while rows and not self._stopping.is_set():
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output, read = self._forward(
                [row.part for row in rows],
                mask if first else None,
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1 + len(ahead),
                **{CACHE: cache},
            )
            if first:
                if not self.small:
                    _compute_on(max(1, self.cores - 1), self.cores)
                for row, weights in zip(rows, _blends(read, [row.part for row in rows]), strict=True):
                    row.blend = weights
            first = False
            right = 0
            while True:  # once, and again after each guess that was right
                logits = output.logits[:, right].float()
                logps = logits.log_softmax(-1)
                chosen = [self._sample(logits[i], logps[i], row) for i, row in enumerate(rows)]
                going = [
                    i for i, row in enumerate(rows) if self._step(row, chosen[i], float(logps[i, chosen[i]]))
                ]
                if not going or right == len(ahead) or chosen[0] != ahead[right]:
                    break
                right += 1
            if wrong := len(ahead) - right:
                cache.crop(-wrong)
                mask = mask[:, :-wrong]
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                chosen = [chosen[i] for i in going]
                keep = torch.tensor(going, dtype=torch.long)
                mask = mask[keep]
                if rows:
                    cache.batch_select_indices(keep)
            ahead = self._ahead(rows)
            ids = torch.tensor([[token, *ahead] for token in chosen], dtype=torch.long)
            mask = torch.cat([mask, torch.ones(len(rows), 1 + len(ahead), dtype=mask.dtype)], dim=1)

    def _ahead(self, rows: Sequence[_Row]) -> list[int]:
        """Guesses at a lone reply's next tokens."""
        if self.small or len(rows) != 1:
            return []
        room = rows[0].request.max_tokens - len(rows[0].tokens) - 1
        return guesses(rows[0].request.prompt + rows[0].tokens)[: max(room, 0)]

    def _step(self, row: _Row, token: int, logprob: float) -> bool:
        """Deliver the token; False when the row has ended."""
        request = row.request
        if request.cancelled.is_set():
            return False
        if token == self.tokenizer.eos_token_id:
            request.deliver(Piece("", logprob, "stop", blend=row.blend))
            return False
        row.tokens.append(token)
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        last = len(row.tokens) >= request.max_tokens
        if text.endswith("\ufffd") and not last:  # a character's bytes are still coming
            fresh = ""
        else:
            fresh, row.shown = text[len(row.shown) :], text
        request.deliver(Piece(fresh, logprob, "length" if last else None, blend=row.blend if last else None))
        return not last

    def _sample(self, logits: Tensor, logps: Tensor, row: _Row) -> int:
        request = row.request
        if request.shape is not None:
            shares = shaped(logits, request.prompt, row.tokens, request.temperature, request.shape)
            if request.temperature <= 0:
                return int(shares.argmax())
            return drawn(shares, row.generator)
        if row.request.temperature <= 0:
            return int(logps.argmax())
        shares = (logps / row.request.temperature).softmax(-1)
        return int(torch.multinomial(shares, 1, generator=row.generator))

    @staticmethod
    def _generator(request: Generation) -> torch.Generator:
        """A generator that the seed, the part and the prompt determine; a fresh one without a seed."""
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            digest = hashlib.sha256(f"{request.seed}:{request.part}:{request.prompt}".encode()).digest()
            generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return generator

    def _part(self, name: str) -> Part:
        return Part.parse(name, self.manifest)

    def _forward(self, parts: Sequence[Part], tokens: Tensor | None, **inputs: Any) -> tuple[Any, Batch]:
        """One forward pass; every row through its own part's changes. `tokens`: (B, L), those whose router
        weights count.
        """
        with self.colours.use([part.mode for part in parts], tokens) as batch:
            return self.model(**inputs), batch

    def _pad(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Left-padded ids and mask, (B, L) each."""
        longest = max(len(p) for p in prompts)
        pad_id = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        return ids, mask

    @torch.inference_mode()
    def _option_logprobs(self, part: str, prompt: list[int], labels: Sequence[str]) -> LabelReading:
        spellings = {label: tokenisations(self.vocabulary, label) for label in labels}
        ends = _longest({ids[:-1] for spelt in spellings.values() for ids in spelt})
        one = self._part(part)
        cut = stem_length(prompt, [ids[0] for ids in spellings[labels[0]]], self._ends_line)
        stem = self._stem(one, prompt[:cut]).copied()
        passed, logps = self._read_on(one, prompt[cut:], ends, stem)
        after = {
            end[:length]: logps[row, length - len(end) - 1]
            for row, end in enumerate(ends)
            for length in range(len(end) + 1)
        }
        totals = []
        for label in labels:
            spelt = [
                torch.stack([after[ids[:place]][token] for place, token in enumerate(ids)]).sum()
                for ids in spellings[label]
            ]
            totals.append(float(torch.logsumexp(torch.stack(spelt), 0)))
        means = [total[0] / len(prompt) for _, total in sorted(passed.sums.items())]
        return LabelReading(totals, [mean.tolist() for mean in means] if one.blends else None)

    def _stem(self, part: Part, ids: list[int]) -> Stem:
        """The stem of these tokens; kept from the last time, or read now."""
        if not ids:
            return Stem(transformers.DynamicCache(), {})
        if (kept := self._stems.get(part.name, ids)) is not None:
            return kept
        stem, _ = self._read_on(part, ids, [()], Stem(transformers.DynamicCache(), {}))
        self._stems.keep(part.name, ids, stem)
        return stem

    def _read_on(
        self, part: Part, ids: list[int], ends: Sequence[tuple[int, ...]], stem: Stem
    ) -> tuple[Stem, Tensor]:
        """Go on from a stem with `ids` and then each of the ends, a row each. The stem's cache grows, and the
        router's weights over `ids` count.

        Gives the log-probabilities (natural) of what follows `ids` and each token of the ends, (rows, longest
        end + 1, vocabulary), a shorter end's in the last places.
        """
        past = stem.cache.get_seq_length()
        if len(ends) > 1:
            stem.cache.batch_repeat_interleave(len(ends))
        rows, mask = self._pad([[*ids, *end] for end in ends])
        start = rows.shape[1] - len(ids) - len(ends[0])
        counted = torch.zeros_like(mask)
        counted[0, start : start + len(ids)] = 1
        whole = torch.cat([torch.ones(len(ends), past, dtype=mask.dtype), mask], dim=1)
        output, read = self._forward(
            [part] * len(ends),
            counted,
            input_ids=rows,
            attention_mask=whole,
            position_ids=(whole.cumsum(1) - 1)[:, past:].clamp(min=0),
            use_cache=True,
            logits_to_keep=1 + max(len(end) for end in ends),
            **{CACHE: stem.cache},
        )
        sums = {layer: new[:1] + stem.sums.get(layer, 0) for layer, new in read.sums.items()}
        return Stem(output[CACHE], sums), output.logits.float().log_softmax(-1)

    @torch.inference_mode()
    def _blend(self, part: str, prompt: list[int]) -> list[list[float]]:
        ids = torch.tensor([prompt])
        one = self._part(part)
        _, read = self._forward([one], torch.ones_like(ids), input_ids=ids, logits_to_keep=1)
        weights = _blends(read, [one])[0]
        if weights is None:
            raise ModelError(f"The part {part!r} of {self.manifest.name!r} is no blend of communities.")
        return weights

    @torch.inference_mode()
    def _sequence_logprob(self, part: str, ids: list[int], start: int) -> tuple[float, int]:
        output, _ = self._forward([self._part(part)], None, input_ids=torch.tensor([ids]))
        logits = output.logits[0, start - 1 : -1].float()
        picked = logits.log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None])
        return float(picked.sum()), len(ids) - start

    def _ends_line(self, token: int) -> bool:
        text: str = self.tokenizer.decode([token])
        return text.endswith("\n")

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Text of each token that decodes to letters and spaces on its own -> id."""
        return spelling_tokens(self.tokenizer)


def _longest(beginnings: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those that no other goes on from."""
    ordered = sorted(beginnings)
    goes_on = [after[: len(before)] == before for before, after in itertools.pairwise(ordered)]
    return [one for one, more in zip(ordered, [*goes_on, False], strict=True) if not more]


def _of_like_length(generations: Sequence[Generation]) -> Iterator[list[Generation]]:
    """Batches that waste little on padding: in each the longest prompt has at most `PADDED` times the tokens
    of the shortest.
    """
    batch: list[Generation] = []
    for request in sorted(generations, key=lambda g: len(g.prompt)):
        if batch and len(request.prompt) > PADDED * len(batch[0].prompt):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _compute_on(cores: int, process_wide: int) -> None:
    """For the calling thread alone. torch gives what was set last to each thread that begins later, so
    another thread sets the process's own number again.
    """
    if cores == torch.get_num_threads():
        return
    torch.set_num_threads(cores)
    other = threading.Thread(target=torch.set_num_threads, args=(process_wide,))
    other.start()
    other.join()


_engines: dict[str, Engine] = {}
_loading = threading.Lock()


def get_engine(name_or_path: str) -> Engine:
    """The process' engine for a palette; loaded on first use (about a second for nano), then shared.
    Blocks.
    """
    with _loading:
        if name_or_path not in _engines:
            manifest = read_manifest(name_or_path)
            prepare(manifest)
            _engines[name_or_path] = Engine(manifest)
            IN_MEMORY.add(name_or_path)
        return _engines[name_or_path]


def _blends(read: Batch, parts: Sequence[Part]) -> list[list[list[float]] | None]:
    """What the pass left of each row's weights: a list a layer for a blend, None for base and agents."""
    if not any(part.blends for part in parts):
        return [None] * len(parts)
    weights = read.router_weights()
    return [weights[row].tolist() if part.blends else None for row, part in enumerate(parts)]


def _load(manifest: Manifest) -> tuple[Any, Any, Colours, bool]:
    """Tokenizer, base and the communities' changes put into it, whether it is small. One copy of the base, in
    float32.
    """
    hide_progress_bars()
    if method := quantised_by(manifest.base):
        raise ModelError(why_not(manifest.base, method, "playing a palette on them here"))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(manifest.base)
        model = transformers.AutoModelForCausalLM.from_pretrained(manifest.base, dtype="auto")
    except Exception as error:  # transformers is foreign code, and a config or tokenizer may hold anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_REASON]
        raise ModelError(
            f"The base of the palette {manifest.name!r} can not be loaded from {manifest.base}: {reason}"
        ) from error
    model.train(False)
    small = sum(p.numel() for p in model.parameters()) < SMALL
    packed = not small and can_pack()
    if packed:
        pack(model)
    model.float()  # type: ignore[no-untyped-call]
    adapters = {key: read_adapter(folder) for key, folder in manifest.adapters.items()}
    colours = install(model, adapters)
    for name, router in load_routers(manifest.router).items():
        colours.add_router(name, router)
    if manifest.blend not in colours.routers:
        raise ModelError(
            f"The palette {manifest.name!r} blends by the router {manifest.blend!r}, and its file has "
            f"{', '.join(colours.routers)}."
        )
    if not packed:
        quicken(model)
    return tokenizer, model, colours, small


CACHE = "cache"
if "cache" not in inspect.signature(transformers.LlamaForCausalLM.forward).parameters:
    CACHE = "past_key_values"  # before transformers 5.24
