"""What auxiliary heads have in common: where in the text layers they read, and how far off what they read is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.learn.looks import Prefix
from vlm3_ros.learn.places import token_of
from vlm3_ros.learn.targets import motion_answered

# Text layers after which is known:
PLACE_LAYER = 1  # where a picture's token is, which place or region a question is about
FLOW_LAYER = 2  # which place of the first picture a token of the second shows; questions look at their place
VALUE_LAYER = 3  # how the camera moved; what questions ask for, depth, lengths, matches and things
VERDICT_LAYER = 4  # to a question: whether the answer is yes, how the camera moved
BINS = 16  # per side of an image: how finely places are told apart
FINE = 0.02  # of an image: errors of places below this count less than in proportion


class PlaceHead(nn.Module):
    """Reads places off states, of pictures' tokens and of questions in the same way."""

    def __init__(self, hidden: int):
        super().__init__()
        self.bins = nn.Linear(hidden, 2 * BINS)

    def forward(self, states: Tensor, places: Tensor) -> Tensor:
        """The loss of places [N, 2] in [0, 1) of an image, from states [N, hidden]."""
        x, y = self.bins(states.float()).split(BINS, dim=1)
        bins = (places * BINS).long().clamp(0, BINS - 1).to(x.device)
        return F.cross_entropy(x, bins[:, 0]) + F.cross_entropy(y, bins[:, 1])


def place_attention_loss(places: Tensor, picture: int, queries: Tensor, prefix: Prefix, layer: int) -> Tensor:
    """Whether queries [N, H, D] of a layer single out places [N, 2] of a picture."""
    sizes = prefix.visual.sizes
    before = sum(rows * columns for rows, columns in sizes[:picture])
    return attention_loss(queries, prefix.keys[layer], prefix.images[before + token_of(places, sizes[picture])])


def attention_loss(queries: Tensor, keys: Tensor, target: Tensor, own: Tensor | None = None) -> Tensor:
    """Whether the first head's queries [N, H, D] of a layer single out certain ones [N] of its keys [P, Hkv, D].

    Where the queries are of some of the same tokens, ``own`` [N] says of which: those behind are not seen.
    """
    scores = queries[:, 0].float() @ keys[:, 0].float().T * queries.shape[-1] ** -0.5
    if own is not None:
        scores = scores.masked_fill(torch.arange(len(keys), device=own.device) > own[:, None], float("-inf"))
    return F.cross_entropy(scores, target)


def motion_loss(read: Tensor, exchanges: Sequence[Exchange]) -> Tensor:
    """How far motions [N, 6] that were read are from the one of the pose answers."""
    return F.smooth_l1_loss(read, motion_answered(exchanges).to(read.device).expand_as(read), beta=0.1)


def corners_loss(read: Tensor, corners: Tensor) -> Tensor:
    """How far corners [N, 4] that were read are from the true ones."""
    return F.smooth_l1_loss(read, corners.to(read.device), beta=FINE)
