"""Needle in a haystack: prompts that hide facts in a real text, and what answers to the same prompts prove. Pure.

A fact is `The number recorded for Harlow is 48213.`, between two paragraphs; the prompt ends with the same words up to
the number, so that no instruction has to be followed. With several keys the others are distractors of the same form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turbobench.stats import mcnemar

LEAST_ACCURACY = 0.2  # of f16: below, a model finds too little for a loss to show
_ALPHA = 0.05
_PLACES = (
    *("Harlow", "Brampton", "Kelso", "Dunmore", "Ashby", "Corwen", "Thirsk", "Marlow"),
    *("Penrith", "Selkirk", "Wigton", "Ludlow", "Oakham", "Bewdley", "Hexham", "Tenby"),
)
_FACT = "The number recorded for {place} is {number}."
_QUESTION = "The number recorded for {place} is"
MAX_KEYS = len(_PLACES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One prompt: the fact asked for stands at `position` (0 the start, 1 the end) among `keys` facts."""

    position: float
    seed: int
    keys: int

    @property
    def id(self) -> str:
        return f"p{self.position:g}-s{self.seed}-k{self.keys}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked, and the number that is the right answer."""

    trial: Trial
    text: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How a pair did against f16 on the same prompts: found by both ways of counting, and McNemar's exact p.

    `lost` f16 found and the pair did not, `won` the other way round.
    """

    n: int
    found: int
    reference: int
    lost: int
    won: int
    p: float

    @property
    def verdict(self) -> str:
        if self.reference < LEAST_ACCURACY * self.n:
            return "model too weak to tell"
        if self.p >= _ALPHA:
            return "no difference shown"
        return "worse than f16" if self.lost > self.won else "better than f16"


def trials(positions: Sequence[float], *, seeds: int, keys: int) -> list[Trial]:
    """Return every combination, seeds innermost."""
    return [Trial(position=position, seed=seed, keys=keys) for position in positions for seed in range(seeds)]


def prompt(trial: Trial, paragraphs: Sequence[tuple[str, int]], *, n_tokens: int) -> Prompt:
    """Return the prompt of about `n_tokens`, from paragraphs and the tokens that each has.

    A seed chooses where in the text the haystack starts, the places, the numbers, and where distractors stand; trials
    that differ in the position alone have the same of all these. ValueError for a text that is too short.
    """
    chance = random.Random(f"{trial.seed} {trial.keys}")  # noqa: S311 - repeatable, not secret
    places = chance.sample(_PLACES, trial.keys)
    numbers = [str(number) for number in chance.sample(range(10_000, 100_000), trial.keys)]
    elsewhere = [chance.random() for _ in places[1:]]
    haystack = _haystack(paragraphs, n_tokens, start=chance.random())
    facts = [_FACT.format(place=place, number=number) for place, number in zip(places, numbers, strict=True)]
    # The last gap first, so that an insertion moves none of those to come.
    gaps = sorted(zip([trial.position, *elsewhere], facts, strict=True), reverse=True)
    for where, fact in gaps:
        haystack.insert(round(where * len(haystack)) if where < 1 else len(haystack), fact)
    question = _QUESTION.format(place=places[0])
    return Prompt(trial=trial, text="\n".join([*haystack, "", question]), answer=numbers[0])


def is_right(answer: str, said: str) -> bool:
    """Return whether the first number in what the model said is the answer, thousands separated or not."""
    found = re.search(r"\d[\d,]*", said)
    return found is not None and found[0].replace(",", "") == answer


def compare(found: Mapping[str, bool], reference: Mapping[str, bool]) -> Paired | None:
    """Return how a pair did against f16 on the prompts that both answered; None if there are none."""
    shared = found.keys() & reference.keys()
    if not shared:
        return None
    lost = sum(reference[trial] and not found[trial] for trial in shared)
    won = sum(found[trial] and not reference[trial] for trial in shared)
    return Paired(
        n=len(shared),
        found=sum(found[trial] for trial in shared),
        reference=sum(reference[trial] for trial in shared),
        lost=lost,
        won=won,
        p=mcnemar(lost, won),
    )


def _haystack(paragraphs: Sequence[tuple[str, int]], n_tokens: int, *, start: float) -> list[str]:
    """Return whole paragraphs of about `n_tokens` together, from a share of the text on, and round its end."""
    if sum(tokens for _, tokens in paragraphs) < n_tokens:
        raise ValueError(f"the text has fewer than {n_tokens} tokens")
    first, chosen, left = int(start * len(paragraphs)), list[str](), n_tokens
    for index in range(len(paragraphs)):
        text, tokens = paragraphs[(first + index) % len(paragraphs)]
        if tokens <= left:
            chosen.append(text)
            left -= tokens
        if left < n_tokens // 50:
            break
    return chosen
