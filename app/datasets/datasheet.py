"""The datasheet: what an export is, for people (after Gebru et al. 2018, "Datasheets for Datasets")."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from app.datasets.format import RankingEntry, RankingLine
from app.datasets.schemas import SPLITS
from app.projects.models import Guideline, Project

EARLIER = "Of strict pairs whose shown order is known, the candidate shown earlier"


@dataclass
class Tally:
    """Figures gathered while the lines are written."""

    prompts: Counter[str] = field(default_factory=Counter)
    rankings: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    ties: int = 0
    keep_gaps: int = 0
    policies: Counter[str] = field(default_factory=Counter)
    raters: set[str] = field(default_factory=set)
    # Of pairs judged by two raters, how many they judged alike.
    met: int = 0
    agreed: int = 0
    # Of rankings: whose shown order, blindness, moment and duration are known.
    ordered: int = 0
    blind: int = 0
    not_blind: int = 0
    timed: int = 0
    measured: int = 0
    # Of strict pairs, how often the candidate shown earlier (where the order is known), or the longer one,
    # was preferred.
    earlier_known: int = 0
    earlier_won: int = 0
    longer_won: int = 0
    unequal_length: int = 0

    def add(self, split: str, line: RankingLine) -> None:
        """Count a line of rankings."""
        self.prompts[split] += 1
        self.rankings[split] += len(line["rankings"])
        for ranking in line["rankings"]:
            self._count_provenance(ranking)
        lengths = {each["id"]: len(each["text"]) for each in line["candidates"]}
        for each in line["candidates"]:
            self.policies[each["policy"] or "unknown"] += 1
        for one, other in combinations(lengths, 2):
            signs = []
            for ranking in line["rankings"]:
                self.raters.add(ranking["rater"])
                difference = ranking["ranks"][other] - ranking["ranks"][one]
                signs.append((difference > 0) - (difference < 0))
                self._count_pair(ranking, one, other, difference, lengths)
            for sign, again in combinations(signs, 2):
                self.met += 1
                self.agreed += sign == again

    def _count_provenance(self, ranking: RankingEntry) -> None:
        self.keep_gaps += ranking["keep_gaps"]
        self.ordered += ranking["presented"] is not None
        self.blind += ranking["blind"] is True
        self.not_blind += ranking["blind"] is False
        self.timed += ranking["timed"]
        self.measured += ranking["seconds"] is not None

    def _count_pair(
        self,
        ranking: RankingEntry,
        one: str,
        other: str,
        difference: int,
        lengths: Mapping[str, int],
    ) -> None:
        if difference == 0:
            self.ties += 1
            return
        self.pairs += 1
        winner, loser = (one, other) if difference > 0 else (other, one)
        shown = ranking["presented"]
        if shown is not None:
            self.earlier_known += 1
            self.earlier_won += shown.index(winner) < shown.index(loser)
        if lengths[winner] != lengths[loser]:
            self.unequal_length += 1
            self.longer_won += lengths[winner] > lengths[loser]


def write_datasheet(
    project: Project,
    name: str,
    tally: Tally,
    guidelines: Sequence[Guideline],
    raters: Mapping[str, int],
    *,
    content_hash: str,
) -> str:
    """The datasheet, in Markdown."""
    newest = guidelines[-1] if guidelines else None
    rules = (
        f"Guidelines up to version {newest.version}, in full at the end."
        if newest
        else "No guidelines were published."
    )
    people = ", ".join(f"{count} {kind}" for kind, count in raters.items()) or "none"
    policies = "\n".join(
        f"- {policy}: {count:,} candidates" for policy, count in sorted(tally.policies.items())
    )
    counts = "\n".join(
        f"| {split} | {tally.prompts[split]:,} | {tally.rankings[split]:,} |" for split in SPLITS
    )
    return f"""\
# {project.name}: {name}

Content hash `{content_hash}`.

## What it is

Rankings of model responses to prompts. {project.description}

| split | prompts | rankings |
| --- | ---: | ---: |
{counts}

{tally.pairs:,} pairs with a preference; {tally.ties:,} ties, which are in the rankings alone. A prompt is
in one split only, by a hash of its text.

## Who rated, and by what rules

Raters by kind: {people}. Their names are pseudonyms, stable within this project.
{rules}

## How they rated

Nothing is claimed here of a ranking that does not say it itself; of those that were made elsewhere, often
nothing is known.

{_provenance(tally)}

## Who wrote the responses

{policies or "Nobody yet."}

## Agreement and known biases

- {_share("Two raters who judged the same pair agreed", tally.agreed, tally.met)}
- {_share(f"{EARLIER} was preferred", tally.earlier_won, tally.earlier_known)}
- {_share("Of pairs of unequal length, the longer was preferred", tally.longer_won, tally.unequal_length)}

A figure far from 50 % in the last two hints at a bias of position or length, or at a real preference that
goes with them: this sheet cannot tell which.

## Licence and consent

Not stated in the application: whoever shares this export has to know the terms under which the prompts
were collected and the raters were paid.
{_guidelines(newest)}"""


def _share(sentence: str, part: int, whole: int) -> str:
    if whole == 0:
        return f"{sentence}: no such pairs."
    return f"{sentence} in {part:,} of {whole:,} cases ({100 * part / whole:.1f} %)."


def _provenance(tally: Tally) -> str:
    total = sum(tally.rankings.values())
    if total == 0:
        return "There are no rankings."
    unknown = total - tally.blind - tally.not_blind
    return "\n".join(
        [
            f"- Given blind, without seeing who wrote what: {tally.blind:,} of {total:,} rankings; "
            f"not blind: {tally.not_blind:,}; not known: {unknown:,}.",
            f"- The order in which the responses were shown is known of {tally.ordered:,} of {total:,}.",
            f"- When it was judged is known of {tally.timed:,} of {total:,}; how long it took, of "
            f"{tally.measured:,}.",
        ]
    )


def _guidelines(newest: Guideline | None) -> str:
    if newest is None:
        return ""
    quoted = "\n".join(f"> {line}".rstrip() for line in newest.text.splitlines())
    return f"\n## Guidelines, version {newest.version}\n\n{quoted}\n"
