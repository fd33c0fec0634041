"""Pure functions from what was collected to the lines of an export."""

import hashlib
import hmac
import uuid
from collections.abc import Sequence

from app.datasets.format import ComparisonLine, DemonstrationLine, RankingLine
from app.datasets.schemas import SPLITS, Split
from app.prompts.models import Candidate, Prompt
from app.prompts.transcripts import render_transcript
from app.rating.judgement import compare
from app.rating.models import Ranking

Candidates = Sequence[tuple[Candidate, str | None]]


def assign_split(content_hash: bytes, split: Split) -> str:
    """Train, validation or test: by SHA-256 of the prompt's hash and the seed.

    The first eight bytes of SHA-256(hash + seed as eight bytes), read as a fraction of 2^64, fall into
    one of the three shares. The same prompt text is always in the same split, however often it came in.
    """
    digest = hashlib.sha256(content_hash + split.seed.to_bytes(8)).digest()
    fraction = int.from_bytes(digest[:8]) / 2**64
    edge = 0.0
    for name in SPLITS:
        edge += getattr(split, name)
        if fraction < edge:
            return name
    return next(name for name in reversed(SPLITS) if getattr(split, name) > 0)


def pseudonym(salt: bytes, rater_id: uuid.UUID) -> str:
    """A rater's name in exports: the same throughout a project, meaningless outside it."""
    return "r-" + hmac.new(salt, rater_id.bytes, hashlib.sha256).hexdigest()[:12]


def ranking_line(
    prompt: Prompt, candidates: Candidates, rankings: Sequence[Ranking], salt: bytes
) -> RankingLine:
    """One line of rankings.jsonl: a prompt with its candidates and everybody's ranks."""
    return {
        "prompt_id": prompt.external_id or str(prompt.id),
        "messages": prompt.messages,
        "candidates": [
            {"id": str(each.id), "text": each.text, "policy": policy} for each, policy in candidates
        ],
        "rankings": [
            {
                "rater": pseudonym(salt, ranking.rater_id),
                "ranks": {str(each.id): ranking.ranks[str(each.id)] for each, _ in candidates},
                "strength": ranking.strength,
                "keep_gaps": ranking.keep_gaps,
                "axes": ranking.axes,
                "flags": ranking.flags,
                "rationale": ranking.rationale,
                "presented": None
                if ranking.presented is None
                else [str(each) for each in ranking.presented],
                "blind": ranking.blind,
                "timed": ranking.timed,
                "seconds": ranking.seconds,
                "weight": 1.0,
            }
            for ranking in rankings
        ],
    }


def comparison_lines(line: RankingLine) -> list[ComparisonLine]:
    """The strict pairs of a line of rankings, in TRL's conversational preference format.

    Pairs and margins are those that are stored as comparisons. Ties are in the rankings alone: the format
    cannot say them.
    """
    candidates = {each["id"]: each for each in line["candidates"]}
    rows: list[ComparisonLine] = []
    for ranking in line["rankings"]:
        ranks = {each: ranking["ranks"][each] for each in candidates}
        pairs = compare(ranks, ranking["strength"], keep_gaps=ranking["keep_gaps"])
        for better, worse, margin in pairs:
            if margin == 0:
                continue
            chosen, rejected = candidates[better], candidates[worse]
            rows.append(
                {
                    "prompt": line["messages"],
                    "chosen": [{"role": "assistant", "content": chosen["text"]}],
                    "rejected": [{"role": "assistant", "content": rejected["text"]}],
                    "prompt_id": line["prompt_id"],
                    "rater": ranking["rater"],
                    "margin": float(margin),
                    "weight": ranking["weight"],
                    "chosen_policy": chosen["policy"],
                    "rejected_policy": rejected["policy"],
                }
            )
    return rows


def hh_line(comparison: ComparisonLine) -> dict[str, str]:
    """A strict pair as Anthropic's two transcripts."""
    chosen, rejected = (
        render_transcript(comparison["prompt"], answer[0]["content"])
        for answer in (comparison["chosen"], comparison["rejected"])
    )
    return {"chosen": chosen, "rejected": rejected}


def demonstration_lines(
    line: RankingLine, rewrites: Sequence[str | None]
) -> list[DemonstrationLine]:
    """What supervised fine-tuning may learn from: raters' rewrites, else the best-ranked response.

    `rewrites`: one for each ranking of the line. The best-ranked is the candidate with the lowest mean
    rank, the earlier of two; where all are equal nothing is best, and nothing is taken.
    """
    texts = [(text, "rewrite") for text in rewrites if text]
    if not texts:
        means = [
            sum(ranking["ranks"][each["id"]] for ranking in line["rankings"])
            for each in line["candidates"]
        ]
        if min(means) < max(means):
            best = line["candidates"][means.index(min(means))]
            texts = [(best["text"], "best")]
    return [
        {
            "messages": [*line["messages"], {"role": "assistant", "content": text}],
            "prompt_id": line["prompt_id"],
            "source": source,
        }
        for text, source in dict.fromkeys(texts)
        if text.strip()
    ]
