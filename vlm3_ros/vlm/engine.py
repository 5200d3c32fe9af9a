"""The engine behind look and ask: pictures once, then hundreds of questions in a few large passes.

    shared prefix   Hydragen, arXiv 2402.05099              attention.py, keyvalues.py, language.py
    drafts          speculative decoding, arXiv 2211.17192  decoding.py, template.py
    distributions   a tree over digits                      digits.py
    chunks          memory and time                         chunks.py

Nothing of a look is kept in the model: any number of looks may be open. One thread at a time may use an engine.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise

import numpy as np
import torch

from vlm3_ros.tasks import Grammar, Question
from vlm3_ros.tasks.answers import Words
from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.chunks import Chunks, is_out_of_memory
from vlm3_ros.vlm.decoding import Row, decode
from vlm3_ros.vlm.digits import Alphabet, measure, places_in
from vlm3_ros.vlm.distribution import Distribution
from vlm3_ros.vlm.interface import Answer, ModelError, Picture
from vlm3_ros.vlm.keyvalues import OwnTokens, Prefix
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.loading import Checkpoint
from vlm3_ros.vlm.prompt import common_length, mrope_positions
from vlm3_ros.vlm.template import PLENTY, Learner, Template

COMMON_TEXT = 64  # most tokens of their text that questions share


class Kind:
    """What is learned about questions with the same form of answer."""

    def __init__(self, learner: Learner):
        self.learner = learner
        self.seconds: float | None = None  # a question, lately
        self.room = 32  # own tokens a question needs behind its text

    def needed(self, tokens: int) -> None:
        """Remember how many own tokens questions needed; one answer without an end is forgotten by and by."""
        self.room = max(tokens, (self.room + tokens) // 2)

    def took(self, seconds: float) -> None:
        """Remember how long a question took."""
        self.seconds = seconds if self.seconds is None else 0.5 * (self.seconds + seconds)


class Engine:
    """A `VLM` on a local checkpoint.

    ``chunk`` bounds how many questions are answered at a time (0: by free memory). ``distributions`` measures those
    of the numbers in answers, for about a fifth more time. ``templates`` off decodes all text, to measure what
    templates save. ``cancel`` stops it between two passes: what is asked raises Cancelled.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        chunk: int = 0,
        distributions: bool = True,
        templates: bool = True,
        cancel: Cancel | None = None,
    ):
        self.checkpoint = checkpoint
        self.language = LanguageModel(checkpoint.model)
        self.chunks = Chunks(self.language, chunk)
        self.alphabet = Alphabet(checkpoint.tokenizer)
        self.distributions = distributions
        self.templates = templates
        self.cancel = cancel or Cancel()
        self._kinds: dict[Grammar, Kind] = {}

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[EngineView]:
        view = EngineView(self, self.prefix(pictures))
        try:
            yield view
        finally:
            view.close()

    def try_out(self) -> Engine:
        """Look at a black picture and answer with one token: ModelError, once, where that cannot work."""
        side = 2 * self.checkpoint.patches.token_px
        picture = Picture(np.zeros((side, side, 3), np.uint8), (side, side))
        try:
            with self.look([picture]) as view:
                (answer,) = view.ask([Question("?", Grammar((Words(),)), max_tokens=1)])
        except ModelError:
            raise
        except Exception as error:  # sizes in config.json that do not go together fail anywhere
            raise ModelError(f"{self.checkpoint.info.name} cannot be asked: {error}") from error
        self._kinds.clear()
        if answer is None or not math.isfinite(answer.probability):
            raise ModelError(
                f"{self.checkpoint.info.name} computes NaN or infinity: its weights are damaged, or too large "
                "for the numbers of this precision (set it to bf16 or fp32)"
            )
        return self

    def close(self) -> None:
        del self.checkpoint, self.language, self.chunks
        gc.collect()  # modules refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def kind(self, grammar: Grammar) -> Kind:
        """What is known of questions with this form of answer."""
        return self._kinds.setdefault(grammar, Kind(Learner(self.alphabet.numbers)))

    @torch.inference_mode()
    def prefix(self, pictures: Sequence[Picture]) -> Prefix:
        """Vision tower and chat up to the end of the last picture, with room for the text that questions share."""
        c = self.checkpoint
        with _memory_may_run_out("while looking"):
            pixels, grids, sizes = c.pixels(list(pictures))
            visual = c.model.model.visual
            seen = visual(pixels.to(visual.dtype), grid_thw=grids, return_dict=True)
            tokens = c.chat.pictures([rows * columns for rows, columns in sizes])
            ids = torch.tensor(tokens)
            images = (ids == c.image_token).nonzero()[:, 0].to(c.device)
            text = self.language.embed(ids.to(c.device))
            x = text.index_copy(0, images, seen.pooler_output.to(text.dtype))
            positions = mrope_positions(tokens, c.image_token, sizes)
            return Prefix.of(self.language, x, positions, (images, seen.deepstack_features), COMMON_TEXT)


@contextmanager
def _memory_may_run_out(when: str) -> Iterator[None]:
    """Turns running out of memory into an error for people, where smaller chunks would not help."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"out of memory {when}: lower camera.max_tokens or use precision nf4") from error


class EngineView:
    """One look: the keys and values of its pictures."""

    def __init__(self, engine: Engine, prefix: Prefix):
        self._engine = engine
        self._prefix: Prefix | None = prefix

    def close(self) -> None:
        """Give the memory back."""
        self._prefix = None

    @torch.inference_mode()
    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        deadline = math.inf if budget_s is None else time.monotonic() + budget_s
        answers: list[Answer | None] = []
        for _, group in groupby(questions, key=lambda question: question.grammar):
            answers += self._ask_alike(list(group), deadline)
            if len(answers) and answers[-1] is None:
                break
        return answers + [None] * (len(questions) - len(answers))

    def _ask_alike(self, questions: list[Question], deadline: float) -> list[Answer | None]:
        """Questions with the same form of answer: what their texts share becomes part of the prefix."""
        if self._prefix is None:
            raise ModelError("this look has ended: ask within its context")
        engine, kind = self._engine, self._engine.kind(questions[0].grammar)
        tokens = engine.checkpoint.chat.questions([question.text for question in questions])
        common = min(common_length(tokens), min(map(len, tokens)) - 1, COMMON_TEXT) if len(tokens) > 1 else 0
        with _memory_may_run_out("before the first answer"):
            prefix = self._prefix.extended(tokens[0][:common])
        ends = frozenset(engine.checkpoint.end_tokens)
        rows = [Row(own[common:], q.max_tokens, ends) for own, q in zip(tokens, questions, strict=True)]
        answers: list[Answer | None] = []
        while len(answers) < len(rows):
            count = self._count(rows[len(answers) :], kind, deadline, is_first=not answers)
            if not count:
                break
            start = time.monotonic()
            given = self._answer(prefix, rows[len(answers) :][:count], questions[0].grammar, kind)
            if given:
                kind.took((time.monotonic() - start) / count)
            answers += given
        return answers + [None] * (len(rows) - len(answers))

    def _count(self, rows: Sequence[Row], kind: Kind, deadline: float, is_first: bool) -> int:
        """How many questions to take next; 0 where time is up."""
        count = self._engine.chunks.size(len(rows), max(len(row.suffix) for row in rows) + kind.room)
        if self._engine.templates and kind.learner.needs_samples:
            count = min(count, PLENTY)
        left = deadline - time.monotonic()
        if left <= 0.0:
            return 0
        if kind.seconds is None or left >= count * kind.seconds:
            return count
        return max(int(left / kind.seconds), int(is_first))  # one at least: what took long once may not do so again

    def _answer(self, prefix: Prefix, rows: Sequence[Row], grammar: Grammar, kind: Kind) -> list[Answer]:
        """One chunk; nothing, and smaller chunks from now on, where memory does not suffice."""
        try:
            own = OwnTokens(prefix, len(rows), max(len(row.suffix) for row in rows) + kind.room)
            decode(self._engine.language, own, rows, kind.learner.template, self._engine.cancel)
            self._learn(rows, kind.learner)
            texts = [self._engine.checkpoint.text(row.tokens) for row in rows]
            numbers = self._numbers(own, rows, texts, grammar, kind.learner.template)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._engine.chunks.fitted(len(rows))
            kind.needed(own.used - max(len(row.suffix) for row in rows))
            return [
                Answer(text, math.exp(sum(row.logs)), of_row, len(row.tokens), row.is_cut, self._pieces(row, grammar))
                for row, text, of_row in zip(rows, texts, numbers, strict=True)
            ]
        for row in rows:
            row.forget()
        self._engine.chunks.shrink(len(rows))
        return []

    def _pieces(self, row: Row, grammar: Grammar) -> tuple[tuple[str, float], ...]:
        """The tokens of an answer in words as text, with their log-probabilities; nothing where numbers are meant."""
        if grammar.numbers:
            return ()
        lengths = [len(self._engine.checkpoint.text(row.tokens[:k])) for k in range(len(row.tokens) + 1)]
        text = self._engine.checkpoint.text(row.tokens)
        return tuple((text[a:b], log) for (a, b), log in zip(pairwise(lengths), row.logs, strict=True))

    def _learn(self, rows: Sequence[Row], learner: Learner) -> None:
        if learner.needs_samples:
            if self._engine.templates:
                learner.add([row.tokens for row in rows])
        else:
            learner.count(len(rows), sum(row.failed for row in rows))

    def _numbers(
        self, own: OwnTokens, rows: Sequence[Row], texts: Sequence[str], grammar: Grammar, template: Template | None
    ) -> list[tuple[Distribution, ...]]:
        """The distributions of each answer's numbers; none where they are not wanted or the form is another."""
        if not self._engine.distributions:
            return [() for _ in rows]
        copies = template.copies if template else {}
        alphabet = self._engine.alphabet
        places = [
            place
            for i, (row, text) in enumerate(zip(rows, texts, strict=True))
            for place in places_in(i, row, text, grammar, copies, alphabet)
        ]
        found = measure(self._engine.language, own, places, [row.stored for row in rows], alphabet)
        of_rows: list[list[Distribution]] = [[] for _ in rows]
        for place, distribution in zip(places, found, strict=True):
            of_rows[place.row].append(distribution)
        return list(map(tuple, of_rows))
