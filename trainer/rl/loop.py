"""The on-policy loop: a whole run of PPO or RLOO, from prompts to artifacts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from trainer.data.examples import Messages, Prompt, Tally
from trainer.data.files import read_prompts
from trainer.data.values import JsonObject, JsonValue, Result
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.encoding import encode_each, figures_of_left_out, nothing_left
from trainer.engine.lora import save_adapters
from trainer.engine.models import choose_device, load_policy, make_repeatable
from trainer.engine.prepare import plain_model
from trainer.engine.provenance import provenance_of
from trainer.engine.tokens import Encoder
from trainer.engine.usage import describe_answering
from trainer.errors import TrainerError
from trainer.formulas.evaluation import wilson, win_shares
from trainer.formulas.schedules import count_steps
from trainer.rl.rewards import RewardReader, paths_of
from trainer.rl.trainer import Config, HeldoutEvaluation, OnPolicyTrainer
from trainer.run.artifacts import write_artifacts
from trainer.run.directory import Run
from trainer.run.files import hash_model_files, writing
from trainer.run.judges import CLIMBED, HELD_OUT
from trainer.run.metrics import Metrics
from trainer.run.plots import draw_frontier
from trainer.run.progress import tell_left_out
from trainer.run.report import Sample

HELD_OUT_PROMPTS = 64
REPORTED_SAMPLES = 8


def run_on_policy(
    stage: str,
    config: Config,
    create: Callable[[Config, Processes], OnPolicyTrainer[Config]],
    *,
    prompts_per_step: int,
) -> Result:
    """A whole run of a stage; the result is also in result.json."""
    processes = Processes(choose_device(config.device))
    processes.check_batch(config.batch_size)
    make_repeatable(config.seed, processes.device)
    data = read_prompts(config.data)
    trainer = create(config, processes)
    for split, rows in data.splits.items():
        data.splits[split] = readable(trainer, rows, data.left_out)
    data.left_out.include(trainer.left_out())
    prompts = [each.messages for each in data["train"]]
    held_out = [each.messages for each in data["validation"] or data["test"]][:HELD_OUT_PROMPTS]
    if not prompts:
        raise nothing_left(config.data, "prompts to train on", data.left_out)
    tell_left_out(stage, data.left_out, speaks=processes.first)
    steps = count_steps(config.steps, config.epochs, len(prompts), prompts_per_step)
    reward_hashes: list[JsonValue] = [*map(hash_model_files, paths_of(config.reward))]
    provenance = provenance_of(
        config,
        data,
        lr=trainer.lr,
        lr_source=trainer.lr_source,
        window=trainer.encoder.max_length,
        reward_hash=reward_hashes,
        reference_hash=hash_model_files(config.reference or config.model),
        same_tokens=trainer.rewards.first.same_tokens,
    )
    frozen = trainer.hash_reference()
    with Run(stage, config, provenance, processes) as run:
        state = run.open(steps)
        trainer.normalise_rewards(prompts, state)
        before = trainer.evaluate(held_out) if held_out else None
        if state:
            trainer.load_state(state)
        train(trainer, run, prompts, prompts_per_step)
        if trainer.hash_reference() != frozen:
            raise TrainerError("the reference moved: this is a fault of the program")
        after = trainer.evaluate(held_out) if held_out else None
        if trainer.server is not None:
            trainer.server.close()
        if config.lora_rank:
            with writing(run.folder / "adapter"):
                save_adapters(trainer.policy, run.folder / "adapter", writes=processes.first)
        result: JsonObject = {
            "stage": stage,
            "steps": run.last_step,
            "ended_by_kl": trainer.ended_by_kl,
            "episodes": run.last_step * config.batch_size,
        }
        if processes.first:
            result |= summarise(run.read_metrics()[-10:])
        samples: list[Sample] = []
        if before is not None and after is not None:
            judges = map(hash_model_files, paths_of(config.heldout_reward or ""))
            climbed = any(each in reward_hashes for each in judges)
            result["held_out"] = compare(before, after, climbed=climbed)
            samples = to_samples(held_out, before, after)
        result["rewards"] = describe_scales(trainer.rewards.members)
        if processes.first:
            cut = sum(int(row.get("cut_for_reward") or 0) for row in run.read_metrics())
            data.left_out.add("response that a reward model read cut", cut)
        result |= figures_of_left_out(data.left_out, trainer.encoder, config.max_length)
        watched = ("score", "heldout_score") if config.heldout_reward else ("score",)
        write_artifacts(
            run,
            model=plain_model(
                trainer.policy,
                lambda: load_policy(
                    config.model, trainer.tokenizer, processes.loading_device(config.shard)
                ),
                config,
            ),
            tokenizer=trainer.tokenizer,
            result=result,
            usage=describe_answering(trainer.tokenizer),
            samples=samples,
            drawings=[draw_frontier(run.read_metrics(), watched)] if processes.first else [],
        )
    return result


def readable(
    trainer: OnPolicyTrainer[Config], prompts: Sequence[Prompt], tally: Tally
) -> list[Prompt]:
    """The prompts that every model's template takes, with those counted that will be cut."""
    encoder = trainer.encoder
    for label, each, room in (
        ("", encoder, trainer.max_prompt_tokens),
        *(("reward model: ", own, own.max_length) for own in trainer.reward_encoders()),
    ):
        found = Tally()
        rows = encode_each(each, prompts, partial(prompt_tokens, each, room), found)
        prompts = [prompt for prompt, row in zip(prompts, rows, strict=True) if row is not None]
        tally.include(found, label)
    return [*prompts]


def prompt_tokens(encoder: Encoder, max_tokens: int, prompt: Prompt) -> list[int]:
    """A prompt's tokens as they will be read."""
    return encoder.prompt(prompt.messages, max_tokens)


def train(
    trainer: OnPolicyTrainer[Config], run: Run, prompts: Sequence[Messages], prompts_per_step: int
) -> None:
    """All updates that are still to be made."""
    config = trainer.config
    if trainer.ended_by_kl:  # resumed where it had ended
        return
    order = Batches(len(prompts), prompts_per_step, seed=config.seed)
    for step in run.steps():
        figures = trainer.update([prompts[index] for index in order(step)], step, run.total_steps)
        run.log(step, **figures)
        trainer.ended_by_kl = trainer.processes.any(
            config.kl_stop is not None and figures["kl"] > config.kl_stop
        )
        if run.should_checkpoint(step, trainer.ended_by_kl):
            run.save_checkpoint(step, trainer.state())
        if trainer.ended_by_kl:
            return


def summarise(last: Sequence[Metrics]) -> Mapping[str, float | None]:
    """The last updates in a few figures."""
    names = ["score", "kl", *(name for name in ("heldout_score",) if name in last[-1])]
    means = {name: sum(row[name] or 0.0 for row in last) / len(last) for name in names}
    return {**means, "kl_coef": last[-1]["kl_coef"]}


def compare(
    before: HeldoutEvaluation, after: HeldoutEvaluation, *, climbed: bool = False
) -> JsonObject:
    """The policy against where it started, on prompts that it never trained on.

    The judge is the held-out reward model where there is one, else the one that was trained against, and
    is named as such: what that one says of this policy is no evidence. `climbed`: the held-out one is the
    same model.
    """
    own, start = after.heldout_rewards, before.heldout_rewards
    apart = own is not None and start is not None and not climbed
    judged, judged_start = (own, start) if own is not None and apart else (None, None)
    if judged is None or judged_start is None:
        judged, judged_start = after.rewards, before.rewards
    win_rate = float(win_shares(judged, judged_start).mean())
    figures: JsonObject = {
        "prompts": len(after.rewards),
        "judge": HELD_OUT if apart else CLIMBED,
        "win_rate": win_rate,
        "win_rate_interval": wilson(win_rate, len(after.rewards)),
        "climbed_win_rate": float(win_shares(after.rewards, before.rewards).mean()),
        "score": float(after.rewards.mean()),
        "start_score": float(before.rewards.mean()),
        "kl": after.kl,
    }
    if own is not None and start is not None:
        figures |= {"heldout_score": float(own.mean()), "start_heldout_score": float(start.mean())}
    return figures


def describe_scales(members: Sequence[RewardReader]) -> JsonObject:
    """How rewards were normalised, for the result; a figure for each member of an ensemble."""
    scales = [each.scale for each in members]
    return {
        "mean": [mean for mean, _ in scales],
        "spread": [spread for _, spread in scales],
        "scale": [each.scaled_by for each in members],
    }


def to_samples(
    prompts: Sequence[Messages], before: HeldoutEvaluation, after: HeldoutEvaluation
) -> list[Sample]:
    """The first few responses, for the report."""
    return [
        Sample(
            prompt=messages[-1]["content"],
            before=before.texts[index],
            after=after.texts[index],
            reward_before=float(before.rewards[index]),
            reward_after=float(after.rewards[index]),
        )
        for index, messages in enumerate(prompts[:REPORTED_SAMPLES])
    ]
