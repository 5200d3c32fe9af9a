"""Greedy answers for many questions at once: drafts verified, the rest decoded in lockstep.

What a `Template` expects next is fed along with the last known token. The model's logits at every fed token say what
greedy decoding would have chosen there; tokens are kept up to the first that differs, and that one is replaced by the
right one (speculative decoding, arXiv 2211.17192, for the greedy case). So the answers are exactly those of decoding
token by token, whatever the template. In between, numbers are decoded one token a step for all questions together,
without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vlm3_ros.vlm.attention import Layout
from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.keyvalues import OwnTokens
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.template import Plan, Template

LOCKSTEP = 16  # tokens decoded at a time on a GPU where nothing is known of the answer: one wait for each so many


@dataclass
class Row:
    """One question on its way to its answer."""

    suffix: Sequence[int]  # its own part of the prompt
    max_tokens: int
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)  # of the answer, its end token included
    logs: list[float] = field(default_factory=list)  # log-probability of each
    failed: bool = False  # a draft was wrong somewhere

    @property
    def is_done(self) -> bool:
        return self.left <= 0 or (bool(self.tokens) and self.tokens[-1] in self.ends)

    @property
    def is_cut(self) -> bool:
        """Whether the token limit ended it."""
        return self.left <= 0 and self.tokens[-1] not in self.ends

    @property
    def left(self) -> int:
        return self.max_tokens - len(self.tokens)

    @property
    def stored(self) -> int:
        """Own tokens whose keys and values are known: all but the last of the answer."""
        return len(self.suffix) + len(self.tokens) - 1 if self.tokens else 0

    @property
    def next(self) -> list[int]:
        """What has to be fed next."""
        return self.tokens[-1:] or list(self.suffix)

    def forget(self) -> None:
        """Back to the start."""
        self.tokens, self.logs, self.failed = [], [], False

    def accept(self, tokens: Sequence[int], logs: Sequence[float]) -> None:
        """Tokens that greedy decoding chooses next; those behind the end are dropped."""
        for token, log in zip(tokens, logs, strict=True):
            if self.is_done:
                return
            self.tokens.append(token)
            self.logs.append(log)


def decode(
    language: LanguageModel,
    own: OwnTokens,
    rows: Sequence[Row],
    template: Template | None,
    cancel: Cancel | None = None,
) -> None:
    """Answer all ``rows``, whose keys and values are those of ``own``. Raises Cancelled between two passes."""
    active = list(range(len(rows)))
    while active:
        if cancel is not None:
            cancel.check()
        plans = [_plan(rows[i], template) or Plan() for i in active]
        _verify(language, own, rows, active, plans)
        active = [i for i in active if not rows[i].is_done]
        steps = _steps([rows[i] for i in active], template, unknown=LOCKSTEP if language.device.type == "cuda" else 1)
        if steps:
            _lockstep(language, own, rows, active, steps)
            active = [i for i in active if not rows[i].is_done]


def _plan(row: Row, template: Template | None) -> Plan | None:
    """What to do next with a row; None where its answer has no known form."""
    plan = template.plan(row.tokens) if template is not None else None
    return plan and Plan(plan.draft[: row.left - 1], plan.free)


def _steps(rows: Sequence[Row], template: Template | None, unknown: int) -> int:
    """How many tokens to decode before looking at them: until the numbers are through; 0 where a row has a draft."""
    plans = [plan for row in rows if (plan := _plan(row, template))]
    if any(plan.draft for plan in plans):
        return 0
    wanted = max((plan.free for plan in plans), default=unknown)
    return min(wanted, max((row.left for row in rows), default=0))


def _verify(
    language: LanguageModel, own: OwnTokens, rows: Sequence[Row], active: Sequence[int], plans: Sequence[Plan]
) -> None:
    """One pass over what is known and what is drafted; each row gains at least one token."""
    feeds = [rows[i].next + list(plan.draft) for i, plan in zip(active, plans, strict=True)]
    reads = [len(plan.draft) + 1 for plan in plans]
    used = [rows[i].stored + len(feed) for i, feed in zip(active, feeds, strict=True)]
    chosen, logs = language.greedy(own.feed(active, feeds, used, reads))
    tokens, values = chosen.tolist(), logs.tolist()
    start = 0
    for i, plan in zip(active, plans, strict=True):
        right = next((j for j, drafted in enumerate(plan.draft) if tokens[start + j] != drafted), len(plan.draft))
        rows[i].failed |= right < len(plan.draft)
        rows[i].accept(tokens[start : start + right + 1], values[start : start + right + 1])
        start += len(plan.draft) + 1


def _lockstep(
    language: LanguageModel, own: OwnTokens, rows: Sequence[Row], active: Sequence[int], count: int
) -> None:
    """``count`` tokens for every active row, one a step; tokens behind an answer's end are decoded in vain."""
    used = [rows[i].stored + 1 for i in active]
    layout = Layout.ordered(active, [1] * len(active), used, language.device)
    token = torch.tensor([rows[i].tokens[-1] for i in active]).to(language.device, non_blocking=True)
    tokens, logs = [], []
    for _ in range(count):
        token, log = language.greedy(own.run(token, layout, layout.slot))
        tokens.append(token)
        logs.append(log)
        layout = layout.next()
    for i, chosen, values in zip(active, torch.stack(tokens, 1).tolist(), torch.stack(logs, 1).tolist(), strict=True):
        rows[i].accept(chosen, values)
