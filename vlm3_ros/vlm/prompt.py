"""Prompts as tokens: the chat around pictures and questions, and the positions that Qwen3-VL gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm3_ros.tasks import objects
from vlm3_ros.vlm.interface import ModelError

PROBE = "VLM3-QUESTION"


class Chat:
    """The chat of one checkpoint: one user message, pictures first, then a question; the answer is next.

    The pictures' part and the question's part are tokenized apart: between them stands an added token, at which every
    tokenizer splits, so the result is the same as for the whole text (checked once, when this is made).

    ``wording`` has the texts that the checkpoint learned for kinds of spatial questions instead of the protocol's.
    """

    def __init__(self, tokenizer: Any, template: str, image_token: int, wording: Mapping[str, str] | None = None):
        self._tokenizer = tokenizer
        self._template = template
        self._image_token = image_token
        self._wording = wording or {}
        _, self._tail = self._split(1)
        whole = tokenizer(self._render(1, PROBE), add_special_tokens=False)["input_ids"]
        if whole != [*self._tokens(self._split(1)[0]), *self.questions([PROBE])[0]]:
            raise ModelError("the checkpoint's chat template does not put the question right behind the pictures")

    def pictures(self, tokens: Sequence[int]) -> list[int]:
        """Tokens from the start of the chat to the end of the last picture, each of so many ``tokens``."""
        counts = iter(tokens)
        head = self._tokens(self._split(len(tokens))[0])
        return [t for token in head for t in ([token] * next(counts) if token == self._image_token else [token])]

    def questions(self, texts: Sequence[str]) -> list[list[int]]:
        """For each question its tokens and those behind it, up to where the answer begins."""
        worded = [self.worded(text) + self._tail for text in texts]
        return self._tokenizer(worded, add_special_tokens=False)["input_ids"]

    def worded(self, text: str) -> str:
        """A question as the checkpoint learned it."""
        return objects.worded(text, self._wording)

    def _render(self, pictures: int, text: str) -> str:
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )

    def _split(self, pictures: int) -> tuple[str, str]:
        """The rendered chat before and after the question."""
        head, found, tail = self._render(pictures, PROBE).partition(PROBE)
        if not found or self._tokens(head).count(self._image_token) != pictures:
            raise ModelError("the checkpoint's chat template drops the question or a picture: is it Qwen3-VL's?")
        return head, tail

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


def mrope_positions(tokens: Sequence[int], image_token: int, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Positions [3, T] (time, row, column) of tokens with pictures of ``grids`` (rows, columns) of tokens among them.

    Text counts up on all three axes at once. A picture keeps its time, counts rows and columns from where it starts,
    and moves what follows on by its longer side only (interleaved M-RoPE, Qwen3-VL technical report,
    arXiv 2511.21631).
    """
    left: Iterator[tuple[int, int]] = iter(grids)
    parts, start, i = [], 0, 0
    while i < len(tokens):
        if tokens[i] == image_token:
            rows, columns = next(left)
            row = torch.arange(rows).repeat_interleave(columns)
            column = torch.arange(columns).repeat(rows)
            parts.append(start + torch.stack([torch.zeros_like(row), row, column]))
            start, i = start + max(rows, columns), i + rows * columns
        else:
            parts.append(torch.full((3, 1), start))
            start, i = start + 1, i + 1
    return torch.cat(parts, dim=1)


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences share at their start."""
    first, last = min(map(list, sequences)), max(map(list, sequences))  # in dictionary order the ends differ first
    for i, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return i
    return min(len(first), len(last))
