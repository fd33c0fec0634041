"""SFT, the reward model and DPO as one would write them in an afternoon, to hold the stages against.

Row by row through plain transformers: no shared prefixes, no packing, no micro-batches, no padding. Which
examples a step sees is the one thing taken from the trainer (`Batches`, which has tests of its own).
"""

import copy
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from trainer.engine.batches import Batches
from trainer.formulas.ties import Rankings, fit_log_nu, largest_tie
from trainer.settings.dpo import DPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig
from trainer.settings.supervised import SupervisedConfig

Row = dict[str, Any]
Figures = dict[str, float]


@dataclass
class Outcome:
    """What a run comes to."""

    metrics: list[Figures]
    model: Any
    result: Row


def read(folder: str, kind: str, split: str) -> list[Row]:
    """The rows of an export's file."""
    text = (Path(folder) / f"{kind}.{split}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def load_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_policy(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_scorer(folder: str, *, seed: int | None = None) -> Any:
    """A reward model; of a policy, with the fresh head of this seed."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32
    ).eval()
    if seed is not None:
        width = model.score.weight.shape[1]
        stream = torch.Generator().manual_seed(seed)
        drawn = torch.randn(1, width, generator=stream) / math.sqrt(width + 1)
        model.score.weight.data.copy_(drawn)
    return model


def prompt_ids(tokenizer: Any, messages: list[Row]) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def response_ids(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def encode(
    tokenizer: Any, messages: list[Row], text: str, longest: int
) -> tuple[list[int], list[int]]:
    """Both, cut to fit: a response at its end, to leave a place; a prompt at its start, behind its BOS."""
    prompt, response = prompt_ids(tokenizer, messages), response_ids(tokenizer, text)
    response = response[: longest - 1]
    left = longest - len(response)
    if len(prompt) > left:
        prompt = [prompt[0], *prompt[len(prompt) - left + 1 :]] if left > 1 else prompt[-1:]
    return prompt, response


def score(model: Any, ids: list[int]) -> Tensor:
    """The head at the last token, before any mean is taken off."""
    return cast(Tensor, model(input_ids=torch.tensor([ids])).logits[0, 0])


def token_logprobs(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """(T,) of a response's tokens, each from the logits one place before it."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    first = len(prompt) - 1
    return torch.stack([logits[first + n, token] for n, token in enumerate(response)])


def fit(
    model: Any,
    examples: Sequence[Any],
    config: SupervisedConfig,
    *,
    step_loss: Callable[[list[Any]], tuple[Tensor, Figures]],
    lengths: list[int],
    validate: Callable[[], Figures],
    beside: tuple[Tensor, float] | None = None,
) -> list[Figures]:
    """AdamW down the loss of each batch; the figures of each step.

    `beside`: numbers that are learned with the model, at a rate of their own, unclipped and without decay.
    """
    assert config.steps is not None
    assert config.lr is not None
    parameters = [each for each in model.parameters() if each.requires_grad]
    matrices = [each for each in parameters if each.dim() > 1]
    vectors = [each for each in parameters if each.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, eps=config.adam_eps)
    others = (
        []
        if beside is None
        else [torch.optim.AdamW(beside[:1], eps=config.adam_eps, weight_decay=0.0)]
    )
    order = Batches(len(examples), config.batch_size, seed=config.seed, lengths=lengths)
    warm = min(20, config.steps // 10)
    metrics = []
    for step in range(1, config.steps + 1):
        falling = (config.steps - step + 1) / (config.steps - warm)
        share = step / warm if step <= warm else falling
        lr = config.lr * share
        for group in optimizer.param_groups:
            group["lr"] = lr
        for other in others:
            other.param_groups[0]["lr"] = beside[1] * share if beside else 0.0
        for learner in (optimizer, *others):
            learner.zero_grad()
        loss, figures = step_loss([examples[index] for index in order(step)])
        loss.backward()
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm = math.sqrt(sum(float(each.double().square().sum()) for each in gradients))
        for each in gradients:
            each *= min(1.0, config.max_grad_norm / norm)
        for learner in (optimizer, *others):
            learner.step()
        figures |= {"step": step, "loss": loss.item(), "lr": lr, "grad_norm": norm}
        if step % (config.validate_every or max(1, config.steps // 10)) == 0:
            with torch.no_grad():
                figures |= validate()
        metrics.append(figures)
    return metrics


# --- the reward model ---------------------------------------------------------------------------------


def rankings(folder: str, split: str) -> list[Row]:
    """Each rater's ranking by itself: messages, texts, ranks, weight, strength."""
    return [
        {
            "messages": row["messages"], "texts": [each["text"] for each in row["candidates"]],
            "ranks": [given["ranks"][each["id"]] for each in row["candidates"]],
            "weight": given["weight"], "strength": given.get("strength", 0.0),
        }
        for row in read(folder, "rankings", split)
        for given in row["rankings"]
    ]  # fmt: skip


def strict_pairs(ranks: Sequence[float]) -> list[tuple[int, int]]:
    """(better, worse) indices."""
    return [
        (one, other)
        for one, other in itertools.permutations(range(len(ranks)), 2)
        if ranks[one] < ranks[other]
    ]


def ranking_loss(rewards: Tensor, ranks: Sequence[int]) -> Tensor:
    """Plackett-Luce, ties by Breslow's rule, over K - 1."""
    total = torch.zeros(())
    for own, rank in zip(rewards, ranks, strict=True):
        pool = [each for each, other in zip(rewards, ranks, strict=True) if other >= rank]
        total = total + torch.stack(pool).exp().sum().log() - own
    return total / (len(ranks) - 1)


def outcome_loss(rewards: Tensor, ranks: Sequence[int], log_nu: Tensor) -> Tensor:
    """Davidson-Luce over K - 1: from those who remain, one set after another, all sets written out."""
    nu = torch.cat([torch.zeros(1), log_nu])
    total, left = torch.zeros(()), set(range(len(ranks)))
    for rank in sorted(set(ranks)):
        group = tuple(n for n in sorted(left) if ranks[n] == rank)
        weights = {
            chosen: nu[size - 1] + rewards[list(chosen)].mean()
            for size in range(1, min(len(nu), len(left)) + 1)
            for chosen in itertools.combinations(sorted(left), size)
        }
        total = total + torch.stack([*weights.values()]).logsumexp(0) - weights[group]
        left -= set(group)
    return total / (len(ranks) - 1)


def first_log_nu(train: list[Row]) -> Tensor:
    """The ties' parameters that suit equal rewards; how they are found has tests of its own."""
    most = max(len(each["ranks"]) for each in train)
    ranks, mask = torch.full((len(train), most), most + 1.0), torch.zeros(len(train), most)
    for row, each in enumerate(train):
        ranks[row, : len(each["ranks"])] = torch.tensor(each["ranks"], dtype=torch.float32)
        mask[row, : len(each["ranks"])] = 1
    weights = torch.tensor([each["weight"] for each in train])
    table = Rankings(torch.zeros(len(train), most, 0), ranks, mask, weights)
    largest = largest_tie([each["ranks"] for each in train])
    return fit_log_nu(table, torch.zeros(len(train), most), largest=largest).float()


def reward(config: RewardConfig) -> Outcome:
    """A reward model, and its figures on what is held out (by Breslow's rule; else without them)."""
    tokenizer = load_tokenizer(config.model)
    model = load_scorer(config.model, seed=config.seed)
    train = rankings(config.data, "train")

    def encode_all(each: Row) -> list[tuple[list[int], list[int]]]:
        window = config.max_length
        return [encode(tokenizer, each["messages"], text, window) for text in each["texts"]]

    def rewards_of(each: Row) -> Tensor:
        return torch.stack([score(model, prompt + said) for prompt, said in encode_all(each)])

    sizes = [[len(said) for _, said in encode_all(each)] for each in train]
    by_length = slope_of(train, sizes) if config.length_control else 0.0

    davidson = config.ties == "davidson"
    log_nu = first_log_nu(train).requires_grad_() if davidson else torch.zeros(0)

    def own_loss(rewards: Tensor, ranks: Sequence[int]) -> Tensor:
        return outcome_loss(rewards, ranks, log_nu) if davidson else ranking_loss(rewards, ranks)

    def loss_of(each: Row, rewards: Tensor) -> Tensor:
        ranks = each["ranks"]
        if by_length:
            own = torch.tensor([float(len(said)) for _, said in encode_all(each)])
            rewards = rewards + by_length * (own - own.mean())
        if config.margin_scale and len(ranks) == 2 and ranks[0] != ranks[1]:
            lead = torch.zeros(2)
            lead[ranks.index(1)] = config.margin_scale * each["strength"]
            rewards = rewards - lead
        turned = [max(ranks) + 1 - rank for rank in ranks]
        chance = config.label_smoothing
        return (1 - chance) * own_loss(rewards, ranks) + chance * own_loss(rewards, turned)

    def step_loss(batch: list[Row]) -> tuple[Tensor, Figures]:
        total, weights, margins = torch.zeros(()), 0.0, list[float]()
        for each in batch:
            rewards = rewards_of(each)
            total = total + each["weight"] * loss_of(each, rewards)
            weights += each["weight"]
            margins += [(rewards[a] - rewards[b]).item() for a, b in strict_pairs(each["ranks"])]
        return total / weights, {"accuracy": share_right(margins)}

    def held_out(split: str) -> Figures:
        margins = []
        with torch.no_grad():
            for each in rankings(config.data, split):
                found = rewards_of(each)
                margins += [(found[a] - found[b]).item() for a, b in strict_pairs(each["ranks"])]
        losses = [-float(logsigmoid(torch.tensor(each))) for each in margins]
        return {"pairs": len(margins), "accuracy": share_right(margins),
                "log_loss": sum(losses) / len(losses)}  # fmt: skip

    def validate() -> Figures:
        figures = {} if davidson else held_out("validation")
        return {f"validation_{name}": each for name, each in figures.items() if name != "pairs"}

    def length(each: Row) -> int:
        encoded = encode_all(each)
        prompts = [prompt for prompt, _ in encoded]
        once = prompts[:1] if all(each == prompts[0] for each in prompts) else prompts
        return sum(map(len, once)) + sum(len(said) for _, said in encoded)

    metrics = fit(
        model, train, config,
        step_loss=step_loss, lengths=[length(each) for each in train], validate=validate,
        beside=(log_nu, config.tie_lr) if davidson else None,
    )  # fmt: skip
    with torch.no_grad():
        found = [(each["ranks"], rewards_of(each)) for each in train[: config.max_mean_examples]]
    best = [float(rewards[ranks.index(1)]) for ranks, rewards in found]
    squares = sum(float((rewards - rewards.mean()).square().sum()) for _, rewards in found)
    result: Row = {
        "train_rankings": len(train), "reward_mean": sum(best) / len(best),
        "reward_spread": math.sqrt(squares / sum(len(ranks) - 1 for ranks, _ in found)),
    }  # fmt: skip
    if davidson:
        return Outcome(metrics, model, result | {"ties": {"nu": log_nu.detach().exp().tolist()}})
    splits = {split: held_out(split) for split in ("validation", "test")}
    return Outcome(metrics, model, result | splits)


def slope_of(train: list[Row], sizes: list[list[int]]) -> float:
    """What a token more or less adds to a reward that is length alone, by halving: the likeliest slope.

    With the trainer's ridge of 1e-4 on slopes in units of the spread of lengths.
    """
    centred = [torch.tensor(own, dtype=torch.float64) for own in sizes]
    centred = [own - own.mean() for own in centred]
    spread = float(torch.cat(centred).square().mean().sqrt())
    weights = [each["weight"] for each in train]

    def rises(slope: float) -> bool:
        free = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
        terms = [
            weight * ranking_loss(free * own / spread, each["ranks"])
            for each, own, weight in zip(train, centred, weights, strict=True)
        ]
        loss = torch.stack(terms).sum() / sum(weights) + 1e-4 * free.square()
        return float(torch.autograd.grad(loss, free)[0]) > 0

    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low / spread


def share_right(margins: Sequence[float]) -> float:
    return sum(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in margins) / len(margins)


# --- DPO ----------------------------------------------------------------------------------------------


def pairs(tokenizer: Any, reference: Any, folder: str, split: str, *, longest: int) -> list[Row]:
    """Each strict pair of each ranking, with what the reference says of both sides."""
    found = []
    for each in rankings(folder, split):
        sides = [encode(tokenizer, each["messages"], text, longest) for text in each["texts"]]
        # In the order in which the candidates stand, whichever of two is the better one.
        for one, other in sorted(strict_pairs(each["ranks"]), key=sorted):
            pair = sides[one], sides[other]
            with torch.no_grad():
                said = [token_logprobs(reference, *side).sum().item() for side in pair]
            found.append({"sides": pair, "reference": said, "weight": each["weight"]})
    return found


def dpo(config: DPOConfig) -> Outcome:
    """A policy straight from pairs."""
    tokenizer = load_tokenizer(config.model)
    model = load_policy(config.model)
    reference = load_policy(config.reference or config.model)
    train, held_out = (
        pairs(tokenizer, reference, config.data, split, longest=config.max_length)
        for split in ("train", "validation")
    )

    def figures_of(some: list[Row]) -> tuple[Tensor, list[float]]:
        total, weights, margins = torch.zeros(()), 0.0, list[float]()
        for pair in some:
            ratios = []
            for side, known in zip(pair["sides"], pair["reference"], strict=True):
                ratio = token_logprobs(model, *side).sum() - known
                ratios.append(ratio / len(side[1]) if config.loss == "ipo" else ratio)
            lead = ratios[0] - ratios[1]
            if config.loss == "ipo":
                loss = (lead - 1 / (2 * config.beta)) ** 2
            else:
                chance = config.label_smoothing
                right, wrong = logsigmoid(config.beta * lead), logsigmoid(-config.beta * lead)
                loss = -(1 - chance) * right - chance * wrong
            total = total + pair["weight"] * loss
            weights += pair["weight"]
            sizes = [len(said) if config.loss == "ipo" else 1 for _, said in pair["sides"]]
            margins.append(config.beta * (ratios[0] * sizes[0] - ratios[1] * sizes[1]).item())
        return total / weights, margins

    def step_loss(batch: list[Row]) -> tuple[Tensor, Figures]:
        loss, margins = figures_of(batch)
        return loss, {"accuracy": share_right(margins), "margin": sum(margins) / len(margins)}

    def validate() -> Figures:
        with torch.no_grad():
            loss, margins = figures_of(held_out)
        return {"validation_loss": float(loss), "validation_accuracy": share_right(margins)}

    lengths = [
        len(chosen[0]) + len(chosen[1]) + len(rejected[1])
        for chosen, rejected in (each["sides"] for each in train)
    ]
    metrics = fit(model, train, config, step_loss=step_loss, lengths=lengths, validate=validate)
    figures = validate()
    validation = {"pairs": len(held_out), "loss": figures["validation_loss"],
                  "accuracy": figures["validation_accuracy"]}  # fmt: skip
    return Outcome(metrics, model, {"train_pairs": len(train), "validation": validation})


# --- SFT ----------------------------------------------------------------------------------------------


def sft(config: SFTConfig) -> Outcome:
    """Every assistant's turn, given what stands before it; the mean over tokens.

    Packed, all rows have to be one batch: how examples share rows is then of no account.
    """
    tokenizer = load_tokenizer(config.model)
    model = load_policy(config.model)

    def examples_of(split: str) -> list[tuple[list[int], list[int]]]:
        return [
            encode(tokenizer, messages[:turn], message["content"], config.max_length)
            for messages in (row["messages"] for row in read(config.data, "demonstrations", split))
            for turn, message in enumerate(messages)
            if message["role"] == "assistant"
        ]

    def mean_loss(some: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        return -torch.cat([token_logprobs(model, *each) for each in some]).mean()

    def validate() -> Figures:
        return {"validation_loss": mean_loss(examples_of("validation")).item()}

    train = examples_of("train")
    metrics = fit(
        model, train, config,
        step_loss=lambda batch: (mean_loss(train if config.packing else batch), {}),
        lengths=[len(prompt) + len(response) for prompt, response in train],
        validate=validate,
    )  # fmt: skip
    with torch.no_grad():
        losses = {"train_loss": mean_loss(train).item(), **validate()}
    return Outcome(metrics, model, {"train_examples": len(train), **losses})


# --- what they are held against -----------------------------------------------------------------------


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights by name."""
    return {name: each.detach() for name, each in copy.deepcopy(model).named_parameters()}
