"""The embedded engine: base, agents and MoErges in one process, decoded in batches by one worker thread.

Requests that arrive together decode together: five drafts are one batch whose rows go through five
adapters. Each row draws from a generator of its own, seeded by the request, so a reply depends on its seed
and prompt, and on what shares the batch only in the last bits of its log-probabilities (padding and batch
size choose other kernels). One that must not depend on them at all decodes `alone`.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from cultural_palette.embedded.manifest import IN_MEMORY, Manifest, read_manifest
from cultural_palette.errors import ModelError
from cultural_palette.models.tokens import tokenisations

GATHER_S = 0.015
"""How long the worker waits for company after the last request arrived. Seconds."""
SMALL = 50_000_000
"""Parameters below which one thread is quicker than several: their steps are too short to share."""
BASE, META = "base", "meta"


@dataclass(frozen=True)
class Piece:
    """A step of a reply: new text, the log-probability of its token, and at the end why it ended."""

    text: str
    logprob: float | None = None
    finish_reason: str | None = None
    error: Exception | None = None


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
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Row:
    """A generation while it decodes."""

    request: Generation
    generator: Any
    tokens: list[int] = field(default_factory=list)
    shown: str = ""


class Engine:
    """Models of one palette. Public methods may be called from any thread."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tokenizer, self.agents, self.meta = _load(manifest)
        self.window: int = self.meta.config.max_position_embeddings
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
        self._jobs.put(request)

    def option_logprobs(self, part: str, prompt: list[int], labels: Sequence[str]) -> Future[list[float]]:
        """Log-probability (natural) of each label after the prompt, summed over every tokenisation of it."""
        return self._submit(lambda: self._option_logprobs(part, prompt, labels))

    def blend(self, prompt: list[int]) -> Future[list[list[float]]]:
        """The MoErges' router weights over the prompt: a list a layer, one weight a community. Rows sum
        to 1.
        """
        return self._submit(lambda: self._blend(prompt))

    def sequence_logprob(self, part: str, ids: list[int], start: int) -> Future[tuple[float, int]]:
        """Summed log-probability (natural) of ids[start:], and their count."""
        return self._submit(lambda: self._sequence_logprob(part, ids, start))

    # -- the worker ---

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((call, future))
        return future

    def _work(self) -> None:
        import torch

        if sum(p.numel() for p in self.meta.parameters()) < SMALL:
            torch.set_num_threads(1)
        while True:
            jobs = [self._jobs.get()]
            if self._stopping.is_set():
                return
            while isinstance(jobs[-1], Generation) and not jobs[-1].alone:
                try:
                    jobs.append(self._jobs.get(timeout=GATHER_S))
                except queue.Empty:
                    break
            generations = [job for job in jobs if isinstance(job, Generation)]
            together = [g for g in generations if not g.alone]
            for batch in (
                [g for g in together if g.part == META],
                [g for g in together if g.part != META],
                *([g] for g in generations if g.alone),
            ):
                if batch:
                    self._guarded(batch)
            for job in jobs:
                if job is not None and not isinstance(job, Generation) and not self._stopping.is_set():
                    call, future = job
                    if future.set_running_or_notify_cancel():
                        try:
                            future.set_result(call())
                        except Exception as error:
                            future.set_exception(error)

    def _guarded(self, batch: list[Generation]) -> None:
        try:
            self._decode(sorted(batch, key=lambda g: (g.part, g.prompt)))
        except Exception as error:
            for request in batch:
                request.deliver(Piece("", finish_reason="error", error=error))

    def _decode(self, batch: list[Generation]) -> None:
        """Decode a batch to its end, dropping rows as they finish."""
        import torch

        rows = [_Row(request, self._generator(request)) for request in batch]
        ids, mask = self._pad([row.request.prompt for row in rows])
        cache = None
        with torch.inference_mode():
            while rows and not self._stopping.is_set():
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                output = self._forward(
                    [row.request.part for row in rows],
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                logps = output.logits[:, -1].float().log_softmax(-1)
                chosen = [self._sample(logps[i], row) for i, row in enumerate(rows)]
                going = [
                    i for i, row in enumerate(rows) if self._step(row, chosen[i], float(logps[i, chosen[i]]))
                ]
                if len(going) < len(rows):
                    rows = [rows[i] for i in going]
                    chosen = [chosen[i] for i in going]
                    keep = torch.tensor(going, dtype=torch.long)
                    mask = mask[keep]
                    if rows:
                        cache.batch_select_indices(keep)
                ids = torch.tensor(chosen, dtype=torch.long)[:, None]
                mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=mask.dtype)], dim=1)

    def _step(self, row: _Row, token: int, logprob: float) -> bool:
        """Deliver the token; False when the row has ended."""
        request = row.request
        if request.cancelled.is_set():
            return False
        if token == self.tokenizer.eos_token_id:
            request.deliver(Piece("", logprob, "stop"))
            return False
        row.tokens.append(token)
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        last = len(row.tokens) >= request.max_tokens
        if text.endswith("\ufffd") and not last:  # a character's bytes are still coming
            fresh = ""
        else:
            fresh, row.shown = text[len(row.shown) :], text
        request.deliver(Piece(fresh, logprob, "length" if last else None))
        return not last

    def _sample(self, logps: Any, row: _Row) -> int:
        import torch

        if row.request.temperature <= 0:
            return int(logps.argmax())
        shares = (logps / row.request.temperature).softmax(-1)
        return int(torch.multinomial(shares, 1, generator=row.generator))

    @staticmethod
    def _generator(request: Generation) -> Any:
        """A generator that the seed, the part and the prompt determine; a fresh one without a seed."""
        import torch

        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            digest = hashlib.sha256(f"{request.seed}:{request.part}:{request.prompt}".encode()).digest()
            generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return generator

    def _forward(self, parts: Sequence[str], **inputs: Any) -> Any:
        """One forward pass; every row through its own part's weights. A batch is all MoErges or none.

        Rows of one community go through its adapter alone, which gives the same bits in half the time.
        """
        if parts[0] == META:
            return self.meta(**inputs)
        if parts[0] != BASE and len(set(parts)) == 1:
            if self.agents.active_adapter != parts[0]:
                self.agents.set_adapter(parts[0])
            return self.agents(**inputs)
        names = ["__base__" if part == BASE else part for part in parts]
        return self.agents(**inputs, adapter_names=names)

    def _pad(self, prompts: Sequence[list[int]]) -> tuple[Any, Any]:
        """Left-padded ids and mask, (B, L) each."""
        import torch

        longest = max(len(p) for p in prompts)
        pad_id = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        return ids, mask

    def _next_logps(self, part: str, prompts: Sequence[list[int]]) -> Any:
        """Log-probabilities of the next token after each prompt. (B, V)"""
        import torch

        ids, mask = self._pad(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            output = self._forward(
                [part] * len(prompts),
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float().log_softmax(-1)

    def _option_logprobs(self, part: str, prompt: list[int], labels: Sequence[str]) -> list[float]:
        import torch

        spellings = {label: tokenisations(self.vocabulary, label) for label in labels}
        begun = sorted({ids[:cut] for ways in spellings.values() for ids in ways for cut in range(len(ids))})
        logps = dict(zip(begun, self._next_logps(part, [prompt + list(b) for b in begun]), strict=True))
        totals = []
        for label in labels:
            ways = [
                torch.stack([logps[ids[:cut]][ids[cut]] for cut in range(len(ids))]).sum()
                for ids in spellings[label]
            ]
            totals.append(float(torch.logsumexp(torch.stack(ways), 0)))
        return totals

    def _blend(self, prompt: list[int]) -> list[list[float]]:
        import torch

        from cultural_palette.embedded.moerges import router_weights

        ids = torch.tensor([prompt])
        layers: list[list[float]] = router_weights(
            self.meta, {"input_ids": ids}, torch.ones_like(ids)
        ).tolist()
        return layers

    def _sequence_logprob(self, part: str, ids: list[int], start: int) -> tuple[float, int]:
        import torch

        with torch.inference_mode():
            logits = self._forward([part], input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].float()
        picked = logits.log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None])
        return float(picked.sum()), len(ids) - start

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Text of each token that decodes to letters and spaces on its own -> id."""
        special = set(self.tokenizer.all_special_ids)
        table = {}
        for index in range(len(self.tokenizer)):
            text = self.tokenizer.decode([index])
            if (index not in special and text and text.replace(" ", "").isalpha()) or text == " ":
                table[text] = index
        return table


_engines: dict[str, Engine] = {}
_loading = threading.Lock()


def get_engine(name_or_path: str) -> Engine:
    """The process' engine for a palette; loaded on first use (about a second for nano), then shared.
    Blocks.
    """
    with _loading:
        if name_or_path not in _engines:
            _engines[name_or_path] = Engine(read_manifest(name_or_path))
            IN_MEMORY.add(name_or_path)
        return _engines[name_or_path]


def _load(manifest: Manifest) -> tuple[Any, Any, Any]:
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(
            f"The embedded palette needs {error.name}, which is not installed: "
            "pip install 'cultural-palette[embedded]'"
        ) from error
    from cultural_palette.embedded.moerges import assemble

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    load = transformers.AutoModelForCausalLM.from_pretrained
    first, *others = manifest.communities
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        tokenizer = transformers.AutoTokenizer.from_pretrained(manifest.base)
        base, plain = (load(manifest.base, dtype=torch.float32) for _ in range(2))
        agents = peft.PeftModel.from_pretrained(
            base, manifest.adapters[first], adapter_name=first, is_trainable=False
        )
        for community in others:
            agents.load_adapter(manifest.adapters[community], adapter_name=community)
    meta = assemble(plain, agents, manifest.communities, manifest.router)
    return tokenizer, agents.eval(), meta
