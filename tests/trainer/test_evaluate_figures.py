"""The figures of `evaluate` equal plain computations on the same rows."""

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import plain
from tests.trainer.collected import write_export
from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import make_policy
from trainer import evaluate, reward
from trainer.data.files import read_prompts
from trainer.engine.models import load_reward_model
from trainer.engine.tokens import load_tokenizer
from trainer.formulas import evaluation
from trainer.rl.rollout import decode, rows_of
from trainer.run.artifacts import save_model
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.reward import RewardConfig

CPU = torch.device("cpu")
Score = Callable[[list[dict[str, str]], str], float]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raters' rankings, two policies that end now and then, two reward models with a mean."""
    shelf = tmp_path_factory.mktemp("shelf")
    write_export(shelf / "export", seed=4)
    for seed, family in enumerate(("Llama", "GPT2")):
        policy = make_policy(family)
        policy.save_pretrained(shelf / f"policy{seed}")
        make_tokenizer().save_pretrained(shelf / f"policy{seed}")
        tokenizer = load_tokenizer(str(shelf / f"policy{seed}"))
        model = load_reward_model(str(shelf / f"policy{seed}"), tokenizer, CPU, seed=seed)
        model.config.reward_mean = 0.3 + seed
        save_model(model, tokenizer, shelf / f"scorer{seed}")
    prompts = [
        f"tell me story {word}"
        for word in ["the", "a", "cat", "dog", "fox", "sat", "ran", "sang", "in", "on"]
    ]
    rows = (json.dumps({"prompt": each}) for each in prompts)
    (shelf / "prompts.jsonl").write_text("\n".join(rows))
    few = (shelf / "prompts.jsonl").read_text().splitlines(keepends=True)[:4]
    (shelf / "few.jsonl").write_text("".join(few))
    return shelf


def scorer(folder: Path) -> Score:
    """A reward model's own reward of a text, its mean taken off."""
    tokenizer, model = plain.load_tokenizer(str(folder)), plain.load_scorer(str(folder))
    mean = json.loads((folder / "config.json").read_text())["reward_mean"]

    def score(messages: list[dict[str, str]], text: str) -> float:
        prompt = plain.prompt_ids(tokenizer, messages)
        with torch.no_grad():
            return plain.score(model, prompt + plain.response_ids(tokenizer, text)).item() - mean

    return score


def share(margins: Iterable[float]) -> float:
    return plain.share_right(list(margins))


def check_interval(interval: list[float], accuracy: float, count: int) -> None:
    """Wilson's bounds are the shares of which the one that was seen is 1.96 standard errors away."""
    low, high = interval
    for bound in (low, high):
        error = math.sqrt(bound * (1 - bound) / count)
        assert abs(accuracy - bound) == pytest.approx(1.959964 * error, abs=1e-6)
    assert low <= accuracy <= high


def test_figures_of_a_reward_model_are_plain_sums_over_its_pairs(shelf: Path) -> None:
    file = shelf / "export" / "rankings.train.jsonl"
    found = evaluate.main(
        EvaluateConfig(data=str(file), reward=str(shelf / "scorer0"), max_length=64, batch_size=12)
    )
    score = scorer(shelf / "scorer0")
    margins: list[float] = []
    lengths: list[int] = []
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    votes: dict[tuple[int, frozenset[int]], list[tuple[int, float]]] = defaultdict(list)
    for number, row in enumerate(map(json.loads, file.read_text().splitlines())):
        said = row["candidates"]
        rewards = [score(row["messages"], each["text"]) for each in said]
        for ranking in row["rankings"]:
            ranks = [ranking["ranks"][each["id"]] for each in said]
            for a, b in plain.strict_pairs(ranks):
                margin = rewards[a] - rewards[b]
                longer = len(said[a]["text"]) - len(said[b]["text"])
                margins.append(margin)
                lengths.append(longer)
                groups["rater"][ranking["rater"]].append(margin)
                policies = " / ".join(sorted(said[n]["policy"] or "unknown" for n in (a, b)))
                groups["policies"][policies].append(margin)
                how = (
                    "same length"
                    if not longer
                    else "preferred is " + ("longer" if longer > 0 else "shorter")
                )
                groups["length"][how].append(margin)
                votes[number, frozenset((a, b))].append((a, margin))
            clear = [-ranking["axes"]["clear"][each["id"]] for each in said]
            groups["axis"]["clear"] += [
                rewards[a] - rewards[b] for a, b in plain.strict_pairs(clear)
            ]
    assert found["pairs"] == len(margins) > 20
    assert found["accuracy"] == pytest.approx(share(margins))
    assert 0.2 < found["accuracy"] < 0.8, "or much would look alike the other way round"
    losses = [math.log1p(math.exp(-each)) for each in margins]
    assert found["log_loss"] == pytest.approx(statistics.mean(losses), rel=1e-5)
    check_interval(found["accuracy_interval"], found["accuracy"], len(margins))
    turned = [-each for each in margins], [-each for each in lengths]
    correlation = statistics.correlation(margins + turned[0], lengths + turned[1])
    assert found["length_correlation"] == pytest.approx(correlation, rel=1e-4)

    bins: dict[int, list[float]] = defaultdict(list)
    for margin in margins:
        chance = 1 / (1 + math.exp(-abs(margin)))
        bins[min(9, int((chance - 0.5) / 0.05))].append(margin)
    assert len(bins) > 3
    gap = 0.0
    for line, (_, some) in zip(found["calibration"], sorted(bins.items()), strict=True):
        confidence = statistics.mean(1 / (1 + math.exp(-abs(each))) for each in some)
        assert line == pytest.approx(
            {"confidence": confidence, "accuracy": share(some), "pairs": len(some)}
        )
        gap += len(some) / len(margins) * abs(confidence - share(some))
    assert found["calibration_error"] == pytest.approx(gap, abs=1e-6)

    assert found["slices"].keys() == groups.keys()
    for kind, parts in groups.items():
        assert found["slices"][kind].keys() == parts.keys()
        for name, some in parts.items():
            of_slice = found["slices"][kind][name]
            assert of_slice["pairs"] == len(some)
            assert of_slice["accuracy"] == pytest.approx(share(some))
            check_interval(of_slice["accuracy_interval"], share(some), len(some))

    several = [each for each in votes.values() if len(each) > 1]
    agreeing = [a == b for each in several for (a, _), (b, _) in itertools.combinations(each, 2)]
    assert found["human"]["pairs"] == len(several)
    assert found["human"]["votes"] == sum(map(len, several))
    assert found["human"]["agreement"] == pytest.approx(statistics.mean(map(float, agreeing)))
    assert found["human"]["accuracy"] == pytest.approx(
        share(m for each in several for _, m in each)
    )
    most = sum(max(sum(a == b for b, _ in each) for a, _ in each) for each in several)
    assert found["human"]["ceiling"] == pytest.approx(most / found["human"]["votes"])


def test_equal_rewards_are_half_right() -> None:
    margins = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=torch.float64)
    assert evaluation.figures_of(margins)["accuracy"] == 0.5
    (lowest, _) = evaluation.calibration_of(margins)
    assert lowest["accuracy"] == 0.5
    assert evaluation.win_shares(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])).tolist() == [
        0.5,
        0,
    ]


def test_an_ensemble_is_the_mean_of_its_members(shelf: Path) -> None:
    file = shelf / "export" / "rankings.train.jsonl"
    both = f"{shelf / 'scorer0'},{shelf / 'scorer1'}"
    found = evaluate.main(EvaluateConfig(data=str(file), reward=both, max_length=64))
    members = [scorer(shelf / f"scorer{number}") for number in (0, 1)]
    margins: list[list[float]] = []
    for row in map(json.loads, file.read_text().splitlines()):
        said = row["candidates"]
        for ranking in row["rankings"]:
            for a, b in plain.strict_pairs([ranking["ranks"][each["id"]] for each in said]):
                one, other = said[a]["text"], said[b]["text"]
                margins.append(
                    [
                        score(row["messages"], one) - score(row["messages"], other)
                        for score in members
                    ]
                )
    means = [statistics.mean(each) for each in margins]
    assert found["accuracy"] == pytest.approx(share(means))
    losses = [math.log1p(math.exp(-each)) for each in means]
    assert found["log_loss"] == pytest.approx(statistics.mean(losses), rel=1e-5)
    ensemble = found["ensemble"]
    assert ensemble["members"] == 2
    assert ensemble["member_accuracy"] == pytest.approx(
        [share(each) for each in zip(*margins, strict=True)]
    )
    deviations = [statistics.stdev(each) for each in margins]
    assert ensemble["uncertainty"] == pytest.approx(statistics.mean(deviations), rel=1e-4)
    surest = sorted(range(len(means)), key=lambda n: deviations[n] / abs(means[n]))
    half = (len(means) + 1) // 2
    assert ensemble["accuracy_where_sure"] == pytest.approx(share(means[n] for n in surest[:half]))
    assert ensemble["accuracy_where_unsure"] == pytest.approx(
        share(means[n] for n in surest[half:])
    )


def test_a_file_is_measured_whole_and_a_directory_on_its_test_split(shelf: Path) -> None:
    def pairs(data: Path) -> int:
        config = EvaluateConfig(data=str(data), reward=str(shelf / "scorer0"), max_length=64)
        return int(evaluate.main(config)["pairs"])

    export = shelf / "export"
    count = {
        split: sum(
            len(plain.strict_pairs(each["ranks"])) for each in plain.rankings(str(export), split)
        )
        for split in ("train", "validation", "test")
    }
    assert pairs(export) == count["test"]
    assert pairs(export / "rankings.validation.jsonl") == count["validation"]
    whole = shelf / "whole.jsonl"
    whole.write_text("".join((export / f"rankings.{split}.jsonl").read_text() for split in count))
    assert pairs(whole) == sum(count.values())


def follow(policy: Any, prompt: list[int], most: int, end: int) -> list[int]:
    """The likeliest tokens, one after the other, each from all before it."""
    said: list[int] = []
    while len(said) < most and said[-1:] != [end]:
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([prompt + said])).logits[0, -1]
        said.append(int(logits[: len(make_tokenizer())].argmax()))
    return said


def test_figures_of_greedy_responses_are_those_of_plain_forwards(shelf: Path) -> None:
    """Of the tokens, their rewards, their KL at temperature 1, and how often the one beats the other."""
    found = evaluate.main(
        EvaluateConfig(
            data=str(shelf / "prompts.jsonl"), reward=str(shelf / "scorer0"), policy=str(shelf / "policy0"),
            against=str(shelf / "policy1"), temperature=0.0, response_length=12, max_length=64,
            batch_size=4, device="cpu",
        )
    )  # fmt: skip
    tokenizer, score = make_tokenizer(), scorer(shelf / "scorer0")
    own, other = (plain.load_policy(str(shelf / f"policy{number}")) for number in (0, 1))
    rewards: tuple[list[float], list[float]] = ([], [])
    lengths, kl = [], 0.0
    for row in map(json.loads, (shelf / "prompts.jsonl").read_text().splitlines()):
        messages = [{"role": "user", "content": row["prompt"]}]
        prompt = plain.prompt_ids(tokenizer, messages)
        for policy, of_policy in zip((own, other), rewards, strict=True):
            said = follow(policy, prompt, 12, tokenizer.eos_token_id)
            text = tokenizer.decode([each for each in said if each != tokenizer.eos_token_id],
                                    skip_special_tokens=True)  # fmt: skip
            of_policy.append(score(messages, text))
            if policy is own:
                lengths.append(len(said))
                with torch.no_grad():
                    one, two = (known_logprobs(each, prompt, said) for each in (own, other))
                kl += float((one - two).sum())
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(*rewards, strict=True)]
    wanted = {
        "win_rate": statistics.mean(wins), "reward_mean": statistics.mean(rewards[0]),
        "against_reward_mean": statistics.mean(rewards[1]), "response_length": statistics.mean(lengths),
        "kl": kl / len(lengths), "prompts": len(lengths),
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    check_interval(found["win_rate_interval"], wanted["win_rate"], len(lengths))


def known_logprobs(policy: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Over the tokens that the tokenizer knows: no other is drawn."""
    logits = policy(input_ids=torch.tensor([prompt + response])).logits[
        0, :, : len(make_tokenizer())
    ]
    chances = logits.log_softmax(-1)
    return torch.stack([chances[len(prompt) - 1 + n, token] for n, token in enumerate(response)])


@pytest.mark.parametrize("choose_by", [None, "scorer1"])
def test_of_several_draws_the_choosers_favourite_is_judged(
    shelf: Path, choose_by: str | None
) -> None:
    config = EvaluateConfig(
        data=str(shelf / "few.jsonl"), reward=str(shelf / "scorer0"), policy=str(shelf / "policy0"),
        against=str(shelf / "policy1"), best_of=4, response_length=8, max_length=64, batch_size=3,
        choose_by=choose_by and str(shelf / choose_by), device="cpu",
    )  # fmt: skip
    # In the order in which `main` asks them: split by split.
    asked = evaluate.examples_of(read_prompts(config.data), config.data)
    prompts = [each.messages for each in asked]
    evaluators = [evaluate.load_evaluator(config.reward, config, CPU)]
    choosing = evaluate.load_evaluator(config.choose_by, config, CPU) if config.choose_by else None
    writer = evaluate.load_writer(str(config.policy), config, CPU)
    side = evaluate.respond(
        config, writer, 4, evaluators, choosing, prompts, [writer.prompt(each) for each in asked]
    )
    texts = [text for each in side.rollouts for text in decode(writer.tokenizer, each)]
    lengths = [int(each) for rollout in side.rollouts for each in rollout.response_mask.sum(-1)]
    judge, chooser = scorer(shelf / "scorer0"), scorer(shelf / (choose_by or "scorer0"))
    chosen = []
    for number, messages in enumerate(prompts):
        drawn = texts[4 * number : 4 * number + 4]
        assert len(set(drawn)) > 1
        chosen.append(4 * number + max(range(4), key=lambda n: chooser(messages, drawn[n])))
    wanted = [judge(prompts[n // 4], texts[n]) for n in chosen]
    assert side.rewards.tolist() == pytest.approx(wanted, abs=1e-4)
    assert side.response_length == pytest.approx(statistics.mean(lengths[n] for n in chosen))

    # What `main` tells of the same draws: its KL is of all of them, not of those that were chosen.
    found = evaluate.main(config)
    assert found["reward_mean"] == pytest.approx(statistics.mean(wanted), abs=1e-4)
    assert found["best_of_kl"] == pytest.approx(math.log(4) - 3 / 4)
    own, other = (plain.load_policy(str(shelf / f"policy{number}")) for number in (0, 1))
    kl = 0.0
    with torch.no_grad():
        for prompt, response, _ in (row for each in side.rollouts for row in rows_of(each)):
            one, two = (known_logprobs(each, prompt, response) for each in (own, other))
            kl += float((one - two).sum()) / len(texts)
    assert found["kl"] == pytest.approx(kl, rel=1e-3)


def test_a_runs_own_figures_are_those_that_evaluate_gives_of_it(
    shelf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = reward.main(
        RewardConfig(
            data=str(shelf / "export"), model=str(shelf / "policy0"), out=str(out), lr=3e-3, steps=4,
            batch_size=4, max_length=64, device="cpu",
        )
    )  # fmt: skip
    found = evaluate.main(
        EvaluateConfig(data=str(shelf / "export"), reward=str(out / "model"), max_length=64)
    )
    assert found["slices"] == result["test"]["slices"]
    for name in ("pairs", "accuracy", "log_loss", "calibration_error", "length_correlation"):
        assert found[name] == pytest.approx(result["test"][name], abs=1e-5), name
