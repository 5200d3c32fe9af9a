"""Distributions of the numbers in answers: a tree over their digits.

Behind the text before a number, every likely continuation by the number's grammar (sign, digits, point, what ends it)
is followed, not only the greedy one. Each level of the tree is one pass for all questions; its nodes are further own
tokens of their row that see the text before the number and their own ancestors only (tree attention, SpecInfer,
arXiv 2305.09781). Probabilities are those of the next token given that it continues the grammar: the head is computed
for these few tokens only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlm3_ros.tasks import Grammar, Number
from vlm3_ros.tasks.answers import without_think
from vlm3_ros.vlm.attention import Layout
from vlm3_ros.vlm.decoding import Row
from vlm3_ros.vlm.distribution import Distribution
from vlm3_ros.vlm.keyvalues import OwnTokens
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.template import Digits

LEAST = 0.02  # probability below which a beginning of a number is not followed
FAINT = 0.001  # probability below which a value is left out
WIDEST = 8  # beginnings followed at a time, a number
SIGNIFICANT = 3  # digits; what comes after them is noise, of less than 1 %
REPEATED = 0.05  # relative; numbers in a think block and behind it that are closer are the same one, said twice
SIGNS = ("", "+", "-", "−")


class Alphabet:
    """What a tokenizer writes numbers with."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        ids = tokenizer([*"0123456789."], add_special_tokens=False)["input_ids"]
        if any(len(i) != 1 for i in ids):
            raise ValueError("the tokenizer does not write every digit as a token of its own")
        self.characters = {i[0]: character for i, character in zip(ids, "0123456789.", strict=True)}
        self.numbers = Digits(frozenset(i[0] for i in ids[:10]), ids[10][0])

    def leads(self, own: Sequence[int], first: int, is_signed: bool) -> tuple[int, dict[tuple[int, ...], str]]:
        """What may stand right before the number whose first digit is ``own[first]``, with each sign and without.

        A sign may be a token of its own or part of one ("=-" is one token, "=+" two). Returns where that begins, and
        the ways to write it as tokens with the sign they give.
        """
        if not is_signed:
            return first, {(): ""}
        start = first - 1
        text = self._tokenizer.decode([own[start]])
        if text in SIGNS[1:] and start > 0:
            start -= 1
            text = self._tokenizer.decode([own[start]]) + text
        stem = text[:-1] if text[-1:] in SIGNS[1:] else text
        ways = {tuple(self._tokenizer(stem + sign, add_special_tokens=False)["input_ids"]): sign for sign in SIGNS}
        return start, {tuple(own[start:first]): text.removeprefix(stem), **ways}


@dataclass(frozen=True)
class Place:
    """A number in an answer: row ``row``, the own token ``before`` behind which it starts, and what ends it."""

    row: int
    before: int  # index among the row's own tokens
    token: int  # that token
    number: Number
    leads: dict[tuple[int, ...], str]  # tokens before the first digit, and the sign they give
    end: int | None  # token behind the number


@dataclass
class _Node:
    place: int
    lead: tuple[int, ...]  # tokens before the first digit, so far
    text: str  # of the number, so far
    mass: float
    token: int
    slots: tuple[int, ...]  # of its ancestors below the root and of itself
    depth: int  # own position: index among the row's own tokens, had it been the only continuation


def measure(
    language: LanguageModel, own: OwnTokens, places: Sequence[Place], stored: Sequence[int], alphabet: Alphabet
) -> list[Distribution]:
    """The distribution of each number; ``stored`` own tokens of each row are known and stay."""
    free = list(stored)
    leaves: list[defaultdict[float, float]] = [defaultdict(float) for _ in places]
    nodes = [_Node(i, (), "", 1.0, place.token, (place.before,), place.before) for i, place in enumerate(places)]
    while nodes:
        tokens = _tokens(places, alphabet)
        logits = _feed(language, own, places, nodes, tokens)
        following: list[_Node] = []
        for node, scores in zip(nodes, logits, strict=True):
            following += _grow(places[node.place], node, dict(zip(tokens, scores, strict=True)), leaves, alphabet)
        nodes = _likely(following)
        for node in nodes:
            row = places[node.place].row
            node.slots = (*node.slots, free[row])
            free[row] += 1
    return [_distribution(leaf) for leaf in leaves]


def _tokens(places: Sequence[Place], alphabet: Alphabet) -> list[int]:
    """All tokens that may continue any of the numbers."""
    ends = {place.end for place in places if place.end is not None}
    leads = {token for place in places for lead in place.leads for token in lead}
    return sorted({*alphabet.characters, *ends, *leads})


def _feed(
    language: LanguageModel, own: OwnTokens, places: Sequence[Place], nodes: Sequence[_Node], tokens: Sequence[int]
) -> np.ndarray:
    """Logits [nodes, tokens] of what comes behind each node."""
    device = language.device
    rows = sorted({places[node.place].row for node in nodes})
    index = {row: i for i, row in enumerate(rows)}
    row = np.array([index[places[node.place].row] for node in nodes])
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(rows)))
    column = np.empty(len(nodes), int)
    column[order] = np.arange(len(nodes)) - starts[row[order]]
    slot = np.array([node.slots[-1] for node in nodes])
    keys = int(slot.max()) + 1
    visible = np.arange(keys) <= np.array([places[node.place].before for node in nodes])[:, None]
    for i, node in enumerate(nodes):
        visible[i, list(node.slots)] = True
    on = [torch.as_tensor(x).to(device) for x in (rows, row, column, slot, visible)]
    layout = Layout(on[0], on[1], on[2], on[3], int(column.max()) + 1, keys, on[4], ends=None, used=None)
    fed = torch.tensor([node.token for node in nodes], device=device)
    depth = torch.tensor([node.depth for node in nodes], device=device)
    hidden = own.run(fed, layout, depth)
    return language.logits_of(hidden, torch.tensor(tokens, device=device)).cpu().numpy().astype(float)


def _grow(
    place: Place, node: _Node, logits: dict[int, float], leaves: list[defaultdict[float, float]], alphabet: Alphabet
) -> list[_Node]:
    """The children of a node that may grow further; those that may not become leaves."""
    leads, options = _next_leads(place, node), _options(place, node, alphabet)
    tokens = [*leads, *options]
    scores = np.array([logits[token] for token in tokens])
    masses = np.exp(scores - scores.max())
    masses *= node.mass / masses.sum()
    children = []
    for token, mass in zip(tokens, masses.tolist(), strict=True):
        if token in leads:
            children.append(_Node(node.place, (*node.lead, token), "", mass, token, node.slots, node.depth + 1))
            continue
        text = options[token]
        value = _value(text, place.number, is_ended=text == node.text)
        if value is not None:
            leaves[node.place][value] += mass
        else:
            children.append(_Node(node.place, node.lead, text, mass, token, node.slots, node.depth + 1))
    return children


def _next_leads(place: Place, node: _Node) -> set[int]:
    """The tokens that go on with what stands before the first digit."""
    known = len(node.lead)
    return {lead[known] for lead in place.leads if lead[:known] == node.lead and len(lead) > known and not node.text}


def _options(place: Place, node: _Node, alphabet: Alphabet) -> dict[int, str]:
    """The tokens that go on with the number or end it, and its text then (unchanged where it ends)."""
    if not node.text and node.lead not in place.leads:
        return {}
    before = node.text or place.leads[node.lead]
    whole, point, decimals = node.text.lstrip("+-−").partition(".")
    allowed = "" if not point and len(whole) >= place.number.integer_digits else "0123456789"
    if whole and not point and place.number.decimals:
        allowed += "."
    options = {token: before + character for token, character in alphabet.characters.items() if character in allowed}
    if place.end is not None and place.end not in options and whole and (decimals or not point):
        options[place.end] = node.text
    return options


def _value(text: str, number: Number, is_ended: bool) -> float | None:
    """The number behind a text that nothing more is to come behind, or that needs no more; None otherwise."""
    sign = -1.0 if text[:1] in ("-", "−") else 1.0
    digits = text.lstrip("+-−")
    whole, point, decimals = digits.partition(".")
    if not whole:
        return None
    exact = sign * float(digits)
    is_full = (
        len(decimals) == number.decimals if point else not number.decimals and len(whole) == number.integer_digits
    )
    if is_ended or is_full:
        return exact
    if point and len((whole + decimals).lstrip("0")) >= SIGNIFICANT:
        return round(exact + sign * 0.5 * 10.0 ** -len(decimals), 6)  # the middle of what may follow
    return None


def _likely(nodes: Sequence[_Node]) -> list[_Node]:
    """The nodes worth following: not too unlikely, and not too many a number."""
    by_place: defaultdict[int, list[_Node]] = defaultdict(list)
    for node in nodes:
        if node.mass >= LEAST:
            by_place[node.place].append(node)
    return [n for some in by_place.values() for n in sorted(some, key=lambda node: -node.mass)[:WIDEST]]


def _distribution(leaves: dict[float, float]) -> Distribution:
    values = np.array(sorted(value for value, mass in leaves.items() if mass >= FAINT))
    return Distribution(values, np.array([leaves[value] for value in values]))


def _is_about(a: float, b: float) -> bool:
    """Whether one number is the other, or was meant to be: a small model loses the last digits as it repeats them."""
    return abs(a - b) <= REPEATED * abs(b)


def places_in(
    index: int, row: Row, text: str, grammar: Grammar, copies: dict[int, int], alphabet: Alphabet
) -> list[Place]:
    """Where the numbers of a grammar stand in the answer of row ``index``, which reads ``text``.

    A number that by ``copies`` repeats an earlier one, and does, or that is about the same as one in the think block,
    is looked up there: where it is said again, nothing is left to decide.
    """
    matches = list(re.finditer(r"[0-9]+(?:\.[0-9]+)?", text))
    numbers, values = [m.start() for m in matches], [float(m[0]) for m in matches]
    own = [*row.suffix, *row.tokens]
    starts, i = [], len(row.suffix)
    while i < len(own):
        length = alphabet.numbers.length(own, i)
        starts += [(i, i + length)] if length else []
        i += max(1, length)
    if len(starts) != len(numbers):
        return []
    found = []
    tail = without_think(text)
    shift = len(text) - len(tail)
    for (begin, end), number in zip(grammar.spans(tail), grammar.numbers, strict=False):
        k = next((k for k, at in enumerate(numbers) if begin <= at - shift < end), None)
        if k is None:
            return []
        origin = copies.get(k)
        if origin is None or own[slice(*starts[origin])] != own[slice(*starts[k])]:
            thought = (j for j in range(k) if numbers[j] < shift and _is_about(values[j], values[k]))
            origin = next(thought, k)
        first, last = starts[origin]
        start, leads = alphabet.leads(own, first, number.signed)
        following = own[last] if last < len(own) else None
        found.append(Place(index, start - 1, own[start - 1], number, leads, following))
    return found
