"""Prompts as tokens: the chat around pictures and questions, and the positions that Qwen3-VL gives them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm3_ros.tasks import objects
from vlm3_ros.vlm.interface import ModelError

PROBE = "VLM3-QUESTION"
MOST_STEPS = 2_000_000  # lines of Python that a chat template may take, Jinja's compiler included: about a second
MOST_SECONDS = 10.0
MOST_TEXT = 100_000  # characters


class Chat:
    """The chat of one checkpoint: one user message, pictures first, then a question; the answer is next.

    The pictures' part, the question and what stands behind it are tokenized apart: between them stand added tokens,
    at which every tokenizer splits, so the result is the same as for the whole text (checked once, when this is
    made). But what stands in a question is text: names of special tokens such as <|im_end|> do not become tokens.

    ``wording`` has the texts that the checkpoint learned for kinds of spatial questions instead of the protocol's.
    """

    def __init__(self, tokenizer: Any, template: str, image_token: int, wording: Mapping[str, str] | None = None):
        self._tokenizer = tokenizer
        self._template = template
        self._image_token = image_token
        self._wording = wording or {}
        self._heads: dict[int, list[int]] = {}  # by number of pictures
        for pictures in (1, 2):
            head, tail = self._split(pictures)
            self._heads[pictures] = self._tokens(head)
            self._text_behind, self._behind = self._at_added_token(tail)
            whole = self._tokens(head + PROBE + tail)
            if whole != [*self._heads[pictures], *self.questions([PROBE])[0]]:
                raise ModelError("the checkpoint's chat template does not put the question right behind the pictures")

    def pictures(self, tokens: Sequence[int]) -> list[int]:
        """Tokens from the start of the chat to the end of the last picture, each of so many ``tokens``."""
        counts = iter(tokens)
        head = self._heads[len(tokens)]
        return [t for token in head for t in ([token] * next(counts) if token == self._image_token else [token])]

    def questions(self, texts: Sequence[str]) -> list[list[int]]:
        """For each question its tokens and those behind it, up to where the answer begins."""
        worded = [self.worded(text) + self._text_behind for text in texts]
        encoded = self._tokenizer(worded, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [[*tokens, *self._behind] for tokens in encoded]

    def worded(self, text: str) -> str:
        """A question as the checkpoint learned it."""
        return objects.worded(text, self._wording)

    def _at_added_token(self, tail: str) -> tuple[str, list[int]]:
        """What stands behind the question as text up to the first added token, and as tokens from there on."""
        added = (tail.find(str(token)) for token in self._tokenizer.get_added_vocab())
        place = min((at for at in added if at >= 0), default=len(tail))
        return tail[:place], self._tokens(tail[place:])

    def _split(self, pictures: int) -> tuple[str, str]:
        """The rendered chat before and after the question."""
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": PROBE}]
        text = rendered(self._tokenizer, self._template, [{"role": "user", "content": content}])
        head, found, tail = text.partition(PROBE)
        if not found or self._tokens(head).count(self._image_token) != pictures:
            raise ModelError("the checkpoint's chat template drops the question or a picture: is it Qwen3-VL's?")
        return head, tail

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


def rendered(tokenizer: Any, template: str, messages: list[dict[str, Any]]) -> str:
    """A chat as text. Raises ModelError for a template that fails, goes on and on, or makes a text without end.

    A template is a program in Jinja, which runs in this thread; so its steps are counted as a debugger does.
    """
    steps, end = 0, time.monotonic() + MOST_SECONDS

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS or (steps % 1000 == 0 and time.monotonic() > end):
            raise TimeoutError("it goes on and on")
        return count

    before = sys.gettrace()
    try:
        sys.settrace(count)
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # whatever a template does
        raise ModelError(f"the checkpoint's chat template fails: {type(error).__name__}: {error}") from error
    finally:
        sys.settrace(before)
    if len(text) > MOST_TEXT:
        raise ModelError(f"the checkpoint's chat template makes {len(text)} characters of an empty question")
    return text


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
