"""The parts of bench/gpu.py, each a function that tells its figures as they come."""

import dataclasses
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simulation.gpu.sizes import (
    PPO_EPOCHS,
    SHAPES,
    Shape,
    make_demonstrations,
    make_models,
    make_prompt,
    make_rankings,
    peak_of,
    step_flops,
    write,
)
from trainer import dpo, reward, sft
from trainer.engine.distributed import Processes
from trainer.engine.fit import Learner
from trainer.engine.models import load_policy, load_reward_model, make_repeatable
from trainer.engine.prepare import prepare_model
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.ppo import PPOTrainer
from trainer.rl.rollout import Rollout
from trainer.settings.dpo import DPOConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

Tell = Callable[[dict[str, Any]], None]
STAGES = ("sft", "reward", "dpo", "ppo")


# --- a stage as a function of a step


@dataclass
class Work:
    """A stage made ready: one step of it, and its length in tokens of a row."""

    step: Callable[[int], dict[str, float]]
    tokens: int  # read in a step, no padding among them
    length: int
    set_micro_batch: Callable[[int], None]


def settings(kind: Any, folder: Path, shape: Shape, dtype: str, **more: Any) -> Any:
    """The settings of a stage; what names a place is never read."""
    plain = {"data": "", "model": str(folder / "policy"), "out": "", "max_length": 1024}
    return kind(**plain | {"batch_size": shape.batch, "lr": 1e-6, "dtype": dtype} | more)


def supervised(stage: str, shape: Shape, folder: Path, device: torch.device, dtype: str) -> Work:
    """SFT, the reward model or DPO, by the loop that every run of theirs takes."""
    processes = Processes(device)
    model_path = str(folder / ("reward" if stage == "reward" else "policy"))
    tokenizer = load_tokenizer(model_path)
    encoder, pad = Encoder(tokenizer, 1024), tokenizer.pad_token_id
    count = 2 * shape.batch
    examples: list[Any]
    losses: Any
    weigh: Any = sft.count_targets if stage == "sft" else lambda _: 1.0
    if stage == "reward":
        config = settings(RewardConfig, folder, shape, dtype, weight_decay=0.0)
        model: Any = load_reward_model(model_path, tokenizer, device, seed=0)
        examples = [reward.encode(encoder, each) for each in make_rankings(shape, count)]
        losses = lambda model, some: reward.sum_losses(model, some, pad, config)  # noqa: E731
    elif stage == "dpo":
        config = settings(DPOConfig, folder, shape, dtype)
        model = load_policy(model_path, tokenizer, device)
        other = prepare_model(
            load_policy(model_path, tokenizer, device), config, processes, trainable=False
        )
        pairs = dpo.to_pairs(encoder, make_rankings(shape, count))
        examples = dpo.with_reference(other, pairs, pad, batch_size=4)
        losses = lambda model, some: dpo.sum_losses(model, some, pad, config)  # noqa: E731
        del other
    else:
        config = settings(SFTConfig, folder, shape, dtype)
        model = load_policy(model_path, tokenizer, device)
        rows = sft.encode(encoder, make_demonstrations(shape, count))
        examples = sft.to_rows(rows, False, 0)
        losses = lambda model, some: sft.sum_losses(model, some, pad)  # noqa: E731
    learner: Learner[Any, Any] = Learner(
        model, config, processes, lr=1e-6, sum_losses=losses, weight_of=weigh
    )

    def step(number: int) -> dict[str, float]:
        start = number % 2 * shape.batch
        return learner.training_step(examples[start : start + shape.batch], lr=1e-6)

    def set_micro_batch(size: int) -> None:
        learner.config = dataclasses.replace(learner.config, micro_batch=size)

    (prompt, said) = encoder.pair(make_prompt(shape, 0), write(shape, 1, shape.response - 1))
    length, sides = len(prompt) + len(said), 1 if stage == "sft" else 2
    return Work(step, sides * shape.batch * length, length, set_micro_batch)


class GivenRollouts(PPOTrainer):
    """PPO that can be given the responses, and tells how long it takes to draw them."""

    given: Rollout | None = None
    seconds = 0.0

    def roll_out(self, prompts: Any, stream: torch.Generator) -> Rollout:
        """Draw them, unless they are given."""
        if self.given is not None:
            return self.given
        started = now(self.processes.device)
        rollout = super().roll_out(prompts, stream)
        self.seconds = now(self.processes.device) - started
        return rollout


def make_ppo(shape: Shape, folder: Path, device: torch.device, dtype: str) -> GivenRollouts:
    """PPO's four models and its optimiser."""
    config = settings(
        PPOConfig, folder, shape, dtype, reward=str(folder / "reward"),
        response_length=shape.response, minibatches=1, ppo_epochs=PPO_EPOCHS,
    )  # fmt: skip
    return GivenRollouts(config, Processes(device))


def on_policy(shape: Shape, folder: Path, device: torch.device, dtype: str) -> Work:
    """PPO, by updates that are whole: sampling, scoring, four epochs."""
    trainer = make_ppo(shape, folder, device, dtype)
    prompts = [make_prompt(shape, number) for number in range(2 * shape.batch)]

    def step(number: int) -> dict[str, float]:
        start = number % 2 * shape.batch
        figures = trainer.update(prompts[start : start + shape.batch], number, 10**6)
        return figures | {"sampling_seconds": trainer.seconds}

    def set_micro_batch(size: int) -> None:
        trainer.micro_batch = size

    length = len(trainer.encoder.prompt(prompts[0], 1024)) + shape.response
    return Work(step, shape.batch * length, length, set_micro_batch)


# --- parts


def now(device: torch.device) -> float:
    """The time, when the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most that was used so far, in GiB."""
    if device.type == "cuda":
        return {
            "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
            "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30,
        }
    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def measure_speed(
    stage: str, size: str, folder: Path, device: torch.device, dtype: str, tell: Tell, until: float
) -> None:
    """Steps of a stage until there are enough of them or it is late: the first alone, then the others.

    Where the card has too little memory, the micro-batch is halved and the step made again.
    """
    make_repeatable(0, device)
    shape = SHAPES[size]
    make = on_policy if stage == "ppo" else lambda *rest: supervised(stage, *rest)
    work = make(shape, folder / size, device, dtype)
    flops = step_flops(stage, shape, work.length)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = peak_of(name) if dtype == "bfloat16" else None
    micro_batch = min(16, shape.batch)
    found: dict[str, Any] = {
        "tokens_a_step": work.tokens, "flops_a_step": flops, "dtype": dtype, "steps": 0,
    }  # fmt: skip
    tell(found)
    times: list[float] = []
    sampling: list[float] = []
    number, warm = 0, False
    while len(times) < shape.steps and (not times or time.monotonic() < until):
        number += 1
        work.set_micro_batch(micro_batch)
        started = now(device)
        try:
            figures = work.step(number)
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
            micro_batch //= 2
            torch.cuda.empty_cache()
            continue  # as a later step: some of this one may have been learnt
        seconds = now(device) - started
        if number == 1:
            kept = ("loss", "kl", "ratio", "ratio_var", "margin", "accuracy", "policy_loss")
            found["first"] = {each: figures[each] for each in kept if each in figures}
        if not warm:  # kernels are chosen and memory is taken: not counted
            warm, found["first_seconds"] = True, seconds
        else:
            times.append(seconds)
            sampling.append(figures.get("sampling_seconds", 0.0))
            middle = sorted(times)[len(times) // 2]
            found |= {
                "steps": len(times),
                "seconds_a_step": middle,
                "tokens_a_second": work.tokens / middle,
                "flops_a_second": flops / middle,
                "mfu": flops / middle / peak if peak else "unknown",
            }
            if stage == "ppo":
                found |= {
                    "episodes_a_second": shape.batch / middle,
                    "sampling_share": sum(sampling) / sum(times),
                }
        tell(found | {"micro_batch": micro_batch} | peak_memory(device))


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Float32 products in float32: no TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def check_identities(size: str, folder: Path, device: torch.device, tell: Tell) -> None:
    """The figures of first steps: what they must be, and what the CPU says of the same.

    DPO starts at ln 2 with no margin, PPO at a ratio of 1 and no divergence; losses and gradients are those
    of the CPU. PPO learns from the same responses on both, those that the CPU drew; how many of its own
    tokens the device would have drawn alike is told too.
    """
    # Little of it: the CPU does the same.
    shape, cpu = SHAPES[size], torch.device("cpu")
    shape = shape._replace(batch=4, prompt=min(64, shape.prompt), response=min(48, shape.response))
    found: dict[str, Any] = {}
    for stage in ("sft", "reward", "dpo"):
        by_device = {}
        for name, where, dtype in (
            ("cpu", cpu, "float32"), ("device", device, "float32"), ("bfloat16", device, "bfloat16"),
        ):  # fmt: skip
            make_repeatable(0, where)
            with exact(where):
                work = supervised(stage, shape, folder / size, where, dtype)
                by_device[name] = work.step(1)
        found[stage] = compare(by_device, ("loss", "grad_norm", "margin"))
        tell(found)
    prompts = [make_prompt(shape, number) for number in range(shape.batch)]
    by_device, drawn = {}, dict[str, Rollout]()
    for name, where, dtype in (
        ("cpu", cpu, "float32"), ("device", device, "float32"), ("bfloat16", device, "bfloat16"),
    ):  # fmt: skip
        make_repeatable(0, where)
        with exact(where):
            trainer = make_ppo(shape, folder / size, where, dtype)
            drawn[name] = trainer.roll_out(prompts, torch.Generator().manual_seed(3))
            trainer.given = to_device(drawn["cpu"], where)
            by_device[name] = trainer.update(prompts, 1, 10)
    names = ("loss", "policy_loss", "value_loss", "score", "kl", "ratio", "ratio_var", "grad_norm")
    found["ppo"] = compare(by_device, names) | {
        "tokens_drawn_alike": alike(drawn["cpu"], drawn["device"])
    }
    found["identities"] = {
        "dpo_loss_less_ln2": found["dpo"]["device"]["loss"] - math.log(2),
        "dpo_margin": found["dpo"]["device"]["margin"],
        "ppo_kl": found["ppo"]["device"]["kl"],
    }
    tell(found)


def compare(by_device: dict[str, dict[str, float]], names: tuple[str, ...]) -> dict[str, Any]:
    """The figures of each, and the largest relative difference of the device's from the CPU's."""
    kept = {
        name: {each: figures[each] for each in names if each in figures}
        for name, figures in by_device.items()
    }
    one, other = kept["cpu"], kept["device"]
    differences = [abs(one[each] - other[each]) / max(1.0, abs(one[each])) for each in one]
    return {**kept, "difference": max(differences)}


def to_device(rollout: Rollout, device: torch.device) -> Rollout:
    """The same responses there."""
    fields = {each.name: getattr(rollout, each.name) for each in dataclasses.fields(rollout)}
    return Rollout(**{name: value.to(device) for name, value in fields.items()})


def alike(one: Rollout, other: Rollout) -> float:
    """The share of one's response tokens that the other has in the same place."""
    width = min(one.length, other.length)
    kept = one.response_mask[:, :width].bool()
    same = (one.response[:, :width] == other.response[:, :width].to(one.ids.device)) & kept
    return float(same.sum() / one.response_mask.sum())


def run_part(job: dict[str, Any], tell: Tell) -> None:
    """A part by its description."""
    until = time.monotonic() + job["seconds"]
    folder, device = Path(job["folder"]), torch.device(job["device"])
    if job["part"] == "models":
        started = now(device)
        make_models(job["size"], folder, device)
        tell({"seconds": now(device) - started})
    elif job["part"] == "identities":
        check_identities(job["size"], folder, device, tell)
    else:
        measure_speed(job["part"], job["size"], folder, device, job["dtype"], tell, until)


def describe(device: torch.device) -> dict[str, Any]:
    """The card and what drives it."""
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device.type != "cuda":
        return {
            "device": "CPU",
            "peak_flops": "unknown",
            "threads": torch.get_num_threads(),
        } | versions
    card = torch.cuda.get_device_properties(device)
    return versions | {
        "device": card.name,
        "memory_gib": card.total_memory / 2**30,
        "capability": f"{card.major}.{card.minor}",
        "peak_flops": peak_of(card.name) or "unknown",
        "cuda": torch.version.cuda,
    }
