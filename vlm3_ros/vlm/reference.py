"""The slow reference: one plain `generate` per question, pictures and all. What the engine is tested against."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from vlm3_ros.tasks import Question
from vlm3_ros.vlm.interface import Answer, Picture
from vlm3_ros.vlm.loading import Checkpoint


class Reference:
    """A `VLM` that works as the checkpoints' authors do: every question sees the pictures anew."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[ReferenceView]:
        yield ReferenceView(self.checkpoint, list(pictures))

    def close(self) -> None:
        del self.checkpoint
        gc.collect()  # modules refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class ReferenceView:
    """Pictures to be seen once per question."""

    def __init__(self, checkpoint: Checkpoint, pictures: list[Picture]):
        self._checkpoint = checkpoint
        self._pictures = pictures

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        start = time.monotonic()
        answers: list[Answer | None] = []
        for question in questions:
            late = budget_s is not None and time.monotonic() - start >= budget_s
            answers.append(None if late else self._answer(question))
        return answers

    def _answer(self, question: Question) -> Answer:
        tokens, logits = self.generate(question)
        chosen = logits.float().log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])
        probability = float(chosen.double().sum().exp())
        is_cut = tokens[-1] not in self._checkpoint.end_tokens
        return Answer(self._checkpoint.text(tokens), probability, tokens=len(tokens), is_cut=is_cut)

    @torch.inference_mode()
    def generate(self, question: Question) -> tuple[list[int], torch.Tensor]:
        """Greedy tokens of the answer, its end token included, and the logits [T, vocabulary] they come from."""
        c = self._checkpoint
        pixels, grids, sizes = c.pixels(self._pictures)
        prompt = c.chat.pictures([rows * columns for rows, columns in sizes]) + c.chat.questions([question.text])[0]
        ids = torch.tensor([prompt], device=c.device)
        out = c.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == c.image_token).int(),
            pixel_values=pixels,
            image_grid_thw=grids,
            max_new_tokens=question.max_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits)
