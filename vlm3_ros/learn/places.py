"""Places in pictures, in [0, 1] of their width and height, and the tokens that show them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 4  # per side of a token: how finely it is read


def by_picture(sizes: Sequence[tuple[int, int]], tokens: Tensor) -> list[Tensor]:
    """Tokens of all pictures in a row [V, hidden] as float32 [rows, columns, hidden] for each."""
    parts = tokens.float().split([rows * columns for rows, columns in sizes])
    return [part.view(*size, -1) for part, size in zip(parts, sizes, strict=True)]


def centres(size: tuple[int, int]) -> Tensor:
    """Places [rows · columns, 2] of a picture's tokens."""
    rows, columns = size
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def token_of(places: Tensor, size: Sequence[int]) -> Tensor:
    """Numbers [N] of the tokens that show places [N, 2]."""
    rows, columns = size
    x, y = (places * torch.tensor([columns, rows])).long().T
    return y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)


def tokens_inside(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Which tokens have their middle in which boxes [B, 4], or the box's middle in them: [tokens, B]."""
    at = centres(size)[:, None]
    inside = ((at >= corners[:, :2]) & (at <= corners[:, 2:])).all(dim=-1)
    middle = token_of(middles(corners), size)
    inside[middle, torch.arange(len(corners))] = True
    return inside


def middles(corners: Tensor) -> Tensor:
    """Places [N, 2] of the middles of boxes [N, 4]."""
    return (corners[:, :2] + corners[:, 2:]) / 2


def of_cells(cells: Tensor) -> Tensor:
    """What the cells of tokens [rows, columns, C · CELLS²] show, as an image [rows · CELLS, columns · CELLS, C]."""
    rows, columns, channels = cells.shape
    fine = cells.view(rows, columns, -1, CELLS, CELLS).permute(0, 3, 1, 4, 2)
    return fine.reshape(rows * CELLS, columns * CELLS, channels // CELLS**2)


def sampled(image: Tensor, places: Tensor) -> Tensor:
    """An image [rows, columns, C] at places [N, 2] in [0, 1): [N, C], bilinear."""
    grid = (2 * places - 1)[None, None].to(image.device)
    read = F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    return read[0, :, 0].T
