"""A local `transformers` model, sampled in batches with a key-value cache.

Every sample has a random stream of its own, started from its recorded seed, so that who else is in the
batch does not change what is drawn. (What the batch can change is the last digits of the logits; a draw
that falls within them may differ. The same batch gives the same samples.)
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from app.generation.backends.base import (
    Choice,
    GenerationError,
    Outcome,
    Question,
    Request,
    Response,
)

if TYPE_CHECKING:
    from torch import Tensor

Answer = TypeVar("Answer")

# How many models stay loaded: the one in use and the one before it.
KEPT_MODELS = 2
# Rows in one forward pass; longer prompts sort into batches of their own.
BATCH_ROWS = 64

_models: OrderedDict[tuple[str, int], "LoadedModel"] = OrderedDict()
# One model computes at a time: two would only take each other's cores.
_lock = threading.Lock()


class LocalBackend:
    """A policy on this machine."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def generate(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        """A response or a reason for each request."""
        return await asyncio.to_thread(self._generate, requests)

    async def choose(self, questions: Sequence[Question]) -> Sequence[Choice]:
        """The labels' chances by the model's own distribution of the first token."""
        return await asyncio.to_thread(self._choose, questions)

    def _generate(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        return self._with_model(requests, lambda loaded: loaded.generate(requests))

    def _choose(self, questions: Sequence[Question]) -> Sequence[Choice]:
        return self._with_model(questions, lambda loaded: loaded.choose(questions))

    def _with_model(
        self, wanted: Sequence[object], work: Callable[["LoadedModel"], Sequence[Answer]]
    ) -> Sequence[Answer | GenerationError]:
        with _lock:
            try:
                loaded = load(self.model)
            except Exception as error:  # whatever a checkpoint can do wrong, in one sentence
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                failure = GenerationError(f"the model {self.model} cannot be loaded: {reason}")
                return [failure] * len(wanted)
            try:
                return work(loaded)
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                failure = GenerationError(f"the model {self.model} failed: {reason}")
                return [failure] * len(wanted)


def load(path: str) -> "LoadedModel":
    """The model, from the few that are kept; loaded anew where its files have changed."""
    key = (path, _changed_at(path))
    if key in _models:
        _models.move_to_end(key)
        return _models[key]
    while len(_models) >= KEPT_MODELS:
        _models.popitem(last=False)
    _models[key] = LoadedModel(path)
    return _models[key]


def _changed_at(path: str) -> int:
    folder = Path(path)
    if not folder.exists():
        if path.startswith(("/", ".", "~")):
            raise FileNotFoundError("there is no such directory")
        return 0  # an id, which the hub's own cache looks after
    return max((file.stat().st_mtime_ns for file in folder.glob("*")), default=0)


class LoadedModel:
    """A model and its tokenizer, ready to sample."""

    def __init__(self, path: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.path = path
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # On a CPU the narrow types are slower, and less exact, than float32.
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        self.model.to(self.device).eval()
        ends = self.model.generation_config.eos_token_id
        self.end_ids = {
            *(ends if isinstance(ends, list) else [ends]),
            self.tokenizer.eos_token_id,
            self._end_of_turn(),
        } - {None}
        self.window = getattr(self.model.config, "max_position_embeddings", None) or 1 << 20

    def generate(self, requests: Sequence[Request]) -> list[Outcome]:
        """All requests, in batches of like length, given back in their own order."""
        prompts, refused = self._encode_all(requests)
        outcomes: dict[int, Outcome] = {**refused}
        ready = []
        for index, prompt in prompts.items():
            request = requests[index]
            if len(prompt) + request.max_new_tokens > self.window:
                outcomes[index] = GenerationError(
                    f"the prompt has {len(prompt)} tokens; with {request.max_new_tokens} new ones "
                    f"it does not fit the model's window of {self.window}"
                )
            else:
                ready.append(index)
        ready.sort(key=lambda index: len(prompts[index]))
        for start in range(0, len(ready), BATCH_ROWS):
            rows = ready[start : start + BATCH_ROWS]
            sampled = self._sample([prompts[i] for i in rows], [requests[i] for i in rows])
            outcomes.update(zip(rows, sampled, strict=True))
        return [outcomes[index] for index in range(len(requests))]

    def choose(self, questions: Sequence[Question]) -> list[Choice]:
        """The chances of labels as first tokens, with or without a space before them."""
        import torch

        prompts, refused = self._encode_all(questions)
        choices: dict[int, Choice] = {**refused}
        order = sorted(prompts, key=lambda index: len(prompts[index]))
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            fitting = [index for index in rows if len(prompts[index]) <= self.window]
            for index in set(rows) - set(fitting):
                choices[index] = GenerationError(
                    f"the question has {len(prompts[index])} tokens; the model's window is "
                    f"{self.window}"
                )
            if not fitting:
                continue
            ids, mask = self._pad_left([prompts[index] for index in fitting])
            with torch.inference_mode():
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=False,
                    logits_to_keep=1,
                )
            logprobs = output.logits[:, -1].float().log_softmax(-1)
            for row, index in enumerate(fitting):
                choices[index] = self._weigh(logprobs[row], questions[index].labels)
        return [choices[index] for index in range(len(questions))]

    def _weigh(self, logprobs: "Tensor", labels: Sequence[str]) -> Choice:
        firsts = [
            {self.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in spellings}
            for spellings in ((label, f" {label}") for label in labels)
        ]
        own = [
            tokens - set().union(*firsts[:n], *firsts[n + 1 :]) for n, tokens in enumerate(firsts)
        ]
        if not all(own):
            return GenerationError(f"the model {self.path} has no tokens to tell {labels} apart by")
        values = [logprobs[sorted(tokens)].logsumexp(0) for tokens in own]
        total = sum(float(value.exp()) for value in values)
        return tuple(float(value.exp()) / total for value in values)

    def _pad_left(self, prompts: Sequence[Sequence[int]]) -> tuple["Tensor", "Tensor"]:
        """(B, T) tokens and mask, padded so that all rows end in the same column."""
        import torch

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id or 0
        ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _end_of_turn(self) -> int | None:
        """The token in which the chat template ends an assistant's turn, where it ends in one."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            return None
        said = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except TemplateError:
            return None
        rest = text.rpartition(said)[2].lstrip()
        ends = [
            (len(token.content), number)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if said in text and rest.startswith(token.content)
        ]
        return max(ends)[1] if ends else None

    def _encode_all(
        self, requests: Sequence[Request | Question]
    ) -> tuple[dict[int, list[int]], dict[int, GenerationError]]:
        """The tokens of each, and the reasons for those that the chat template refuses."""
        prompts: dict[int, list[int]] = {}
        refused: dict[int, GenerationError] = {}
        for index, request in enumerate(requests):
            try:
                prompts[index] = self._encode(request)
            except Exception as error:  # a template is a program, and refuses by whatever it raises
                refused[index] = GenerationError(
                    f"the chat template of {self.path} refuses the conversation: {error}"
                )
        return prompts, refused

    def _encode(self, request: Request | Question) -> list[int]:
        """What the template writes steers; what people wrote (`<|im_end|>`) is text."""
        messages = list(request.messages)
        if self.tokenizer.chat_template:
            encoded = self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                sanitize_control_tokens=True,
            )
            return list(encoded["input_ids"])
        text = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        asked = self.tokenizer(f"{text}\n\nassistant:", split_special_tokens=True)
        return list(asked["input_ids"])

    def _sample(
        self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]
    ) -> list[Outcome]:
        import torch

        count = len(prompts)
        ids, mask = self._pad_left(prompts)
        streams = [torch.Generator().manual_seed(request.seed) for request in requests]
        temperature = torch.tensor([r.temperature for r in requests], device=self.device)
        top_p = torch.tensor([r.top_p for r in requests], device=self.device)
        limits = [request.max_new_tokens for request in requests]
        written: list[list[int]] = [[] for _ in requests]
        ended = [False] * count
        active = list(range(count))
        cache = None
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            while active:
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = getattr(output, "past_key_values", None)
                if cache is None:  # a state of another kind (Mamba's), which takes padding in
                    raise ValueError(
                        "it keeps no cache of keys and values, and is not sampled here"
                    )
                rows = torch.tensor(active, device=self.device)
                draws = torch.tensor(
                    [torch.rand((), generator=streams[i]).item() for i in active],
                    device=self.device,
                )
                tokens = draw(output.logits[:, -1], temperature[rows], top_p[rows], draws)
                keep = []
                for row, (index, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
                    if token in self.end_ids:
                        ended[index] = True
                        continue
                    written[index].append(token)
                    if len(written[index]) < limits[index]:
                        keep.append(row)
                if not keep:
                    break
                if len(keep) < len(active):
                    chosen = torch.tensor(keep, device=self.device)
                    cache.batch_select_indices(chosen)
                    mask, positions, tokens = mask[chosen], positions[chosen], tokens[chosen]
                    active = [active[row] for row in keep]
                ids = tokens[:, None]
                mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
                positions = positions[:, -1:] + 1
        texts = self.tokenizer.batch_decode(
            written, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [
            Response(
                text=text.strip().replace("\x00", ""),
                finish_reason="stop" if ended[index] else "length",
                prompt_tokens=len(prompts[index]),
                completion_tokens=len(written[index]) + ended[index],
            )
            for index, text in enumerate(texts)
        ]


def draw(logits: "Tensor", temperature: "Tensor", top_p: "Tensor", uniform: "Tensor") -> "Tensor":
    """(B,) token ids drawn from (B, V) logits by inverting the cumulative distribution.

    `temperature`, `top_p`, `uniform`: (B,). Temperature 0 takes the likeliest token. No other
    truncation than top_p (Holtzman et al. 2020) takes place.
    """
    import torch

    scaled = logits.float() / temperature.clamp(min=1e-6)[:, None]
    chances, order = scaled.softmax(-1).sort(dim=-1, descending=True)
    before = chances.cumsum(-1) - chances
    chances = chances.masked_fill(before >= top_p[:, None], 0.0)
    reached = chances.cumsum(-1)
    if not bool(
        reached[:, -1].isfinite().all()
    ):  # any token would do, and none would mean anything
        raise ValueError("its logits are no numbers")
    picked = (reached < uniform[:, None] * reached[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
    picked = torch.where(temperature == 0, torch.zeros_like(picked), picked)
    return order.gather(-1, picked[:, None])[:, 0]
