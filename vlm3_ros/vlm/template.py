"""The fixed text of answers, learned from free ones, so that only the numbers need to be decoded.

A template proposes the tokens that come next in an answer; the model's own logits decide whether they do
(`decoding`), so a wrong template costs time and never changes an answer.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ENOUGH = 4  # answers to learn from at least
PLENTY = 8  # and at most
AGREE = 0.75  # of them, on what is taken for fixed


@dataclass(frozen=True)
class Digits:
    """The tokens that numbers are written with; Qwen's tokenizer makes every digit a token."""

    digits: frozenset[int]
    point: int

    def length(self, tokens: Sequence[int], start: int) -> int:
        """How many tokens of the number at ``start`` there are; a point counts only between two digits."""
        i, seen_point = start, False
        while i < len(tokens):
            if tokens[i] in self.digits:
                i += 1
            elif tokens[i] == self.point and not seen_point and start < i and tokens[i + 1 : i + 2]:
                if tokens[i + 1] not in self.digits:
                    break
                seen_point, i = True, i + 1
            else:
                break
        return i - start


@dataclass(frozen=True)
class Text:
    """One token of fixed text, or where answers differ in it, the most frequent one."""

    token: int
    is_fixed: bool = True


@dataclass(frozen=True)
class Slot:
    """A number."""

    longest: int  # tokens
    decimals: int | None  # None: not mostly the same
    copy_of: int | None  # an earlier number that this one always repeats


@dataclass(frozen=True)
class Plan:
    """What to do next: try tokens that probably come next or, where there are none, decode so many one by one."""

    draft: tuple[int, ...] = ()
    free: int = 1


@dataclass(frozen=True)
class Template:
    """Answers as a row of fixed tokens and numbers, up to where they stop being alike."""

    parts: tuple[Text | Slot, ...]
    numbers: Digits
    says_much: bool = True  # it goes at least halfway through the answers it was learned from

    @classmethod
    def learn(cls, answers: Sequence[Sequence[int]], numbers: Digits) -> Template:
        """From the tokens of greedy answers to the same kind of question; a few that differ are left out."""
        left = [_split(answer, numbers) for answer in answers]
        length = statistics.median(map(len, left))
        enough = math.ceil(AGREE * len(left))
        parts: list[Text | Slot] = []
        slots: list[int] = []  # where numbers are among the parts
        while left := [answer for answer in left if len(answer) > len(parts)]:
            here = len(parts)
            column = [answer[here] for answer in left]
            commonest, count = Counter(None if isinstance(p, tuple) else p for p in column).most_common(1)[0]
            alike = len({len(answer) for answer in left}) == 1  # then a token may differ, and the rest still matches
            if count < enough and not (alike and commonest is not None and len(left) >= enough):
                break
            if commonest is None:
                left = [answer for answer in left if isinstance(answer[here], tuple)]
                parts.append(_slot(left, here, slots, numbers))
                slots.append(here)
            else:
                if count >= enough:
                    left = [answer for answer in left if answer[here] == commonest]
                parts.append(Text(commonest, is_fixed=count >= enough))
        return cls(tuple(parts), numbers, says_much=2 * len(parts) >= length)

    def plan(self, answer: Sequence[int]) -> Plan | None:
        """What comes next in an ``answer`` of which these tokens are known; None where it is not of this form."""
        i = 0
        found: list[tuple[int, ...]] = []
        for p, part in enumerate(self.parts):
            if i == len(answer) and not (isinstance(part, Slot) and part.copy_of is None):
                return self._ahead(p, found)
            if isinstance(part, Text):
                if part.is_fixed and answer[i] != part.token:
                    return None
                i += 1
                continue
            length = self.numbers.length(answer, i)
            rest = answer[i + length :]
            if not rest or (length and list(rest) == [self.numbers.point]):
                return self._inside(p, found, tuple(answer[i:]))
            if not length:
                return None
            found.append(tuple(answer[i : i + length]))
            i += length
        return None

    @property
    def copies(self) -> dict[int, int]:
        """Which numbers always repeat which earlier one."""
        slots = [part for part in self.parts if isinstance(part, Slot)]
        return {i: slot.copy_of for i, slot in enumerate(slots) if slot.copy_of is not None}

    def _inside(self, p: int, found: list[tuple[int, ...]], number: tuple[int, ...]) -> Plan:
        """Within number ``p``, of which these tokens are known."""
        part = self.parts[p]
        assert isinstance(part, Slot)
        if part.copy_of is not None:
            whole = found[part.copy_of]
            if whole[: len(number)] == number:
                return Plan(whole[len(number) :] + self._ahead(p + 1, [*found, whole]).draft)
        if part.decimals and _decimals(number, self.numbers) == part.decimals:
            return self._ahead(p + 1, [*found, number])
        return Plan(free=max(1, part.longest - len(number)))

    def _ahead(self, p: int, found: list[tuple[int, ...]]) -> Plan:
        """All that is known from part ``p`` on."""
        draft: list[int] = []
        found = list(found)
        for part in self.parts[p:]:
            if isinstance(part, Text):
                draft.append(part.token)
            elif part.copy_of is not None:
                found.append(found[part.copy_of])
                draft.extend(found[-1])
            else:
                break
        return Plan(tuple(draft))


class Learner:
    """Collects free answers of one kind, learns their template, and drops it when it keeps being wrong.

    One that says little, since the answers it was learned from were unlike, is tried for some time and then learned
    anew from as many others; each time it is no better, it is tried twice as long.
    """

    def __init__(self, numbers: Digits):
        self._numbers = numbers
        self._samples: list[list[int]] = []
        self._tried = self._failed = 0
        self._patience = 4 * PLENTY  # answers that a template which says little is kept for
        self.template: Template | None = None

    @property
    def needs_samples(self) -> bool:
        return self.template is None

    def add(self, answers: Sequence[list[int]]) -> None:
        """Learn from answers that were decoded without a template, or with none that still counts."""
        self._samples = (self._samples + list(answers))[-PLENTY:]
        if len(self._samples) >= ENOUGH:
            self.template = Template.learn(self._samples, self._numbers)

    def count(self, tried: int, failed: int) -> None:
        """How many answers the template was tried on, and for how many its text was wrong somewhere."""
        self._tried, self._failed = self._tried + tried, self._failed + failed
        says_much = self.template is not None and self.template.says_much
        if self._tried < (4 * PLENTY if says_much else self._patience):
            return
        if 2 * self._failed > self._tried or not says_much:
            self._samples, self.template = [], None
            self._patience *= 2
        self._tried = self._failed = 0


def _split(answer: Sequence[int], numbers: Digits) -> list[int | tuple[int, ...]]:
    """An answer as single tokens and numbers (tuples of tokens)."""
    parts: list[int | tuple[int, ...]] = []
    i = 0
    while i < len(answer):
        length = numbers.length(answer, i)
        parts.append(tuple(answer[i : i + length]) if length else answer[i])
        i += max(1, length)
    return parts


def _slot(answers: Sequence[Sequence], here: int, slots: Sequence[int], numbers: Digits) -> Slot:
    """The number at part ``here`` of all answers; ``slots`` are the places of the numbers before it."""
    decimals, count = Counter(_decimals(answer[here], numbers) for answer in answers).most_common(1)[0]
    copy_of = next((i for i, slot in enumerate(slots) if all(a[slot] == a[here] for a in answers)), None)
    longest = max(len(answer[here]) for answer in answers)
    return Slot(longest, decimals if count >= AGREE * len(answers) else None, copy_of)


def _decimals(number: Sequence[int], numbers: Digits) -> int:
    return len(number) - 1 - list(number).index(numbers.point) if numbers.point in number else 0
