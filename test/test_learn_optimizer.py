"""Muon and AdamW as one optimizer."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch.testing import assert_close

from vlm3_ros.learn.optimizer import MuonAndAdamW

TABLES = {"embed_tokens.weight": (12, 6), "visual.pos_embed.weight": (16, 6), "help.value.weight": (4, 6)}
OTHERS = {"norm.weight": (6,), "visual.patch_embed.proj.weight": (6, 3, 2, 2, 2)}
MATRICES = {"layers.0.mlp.up_proj.weight": (24, 6), "visual.merger.linear_fc1.weight": (6, 6)}


def parameters() -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {n: torch.nn.Parameter(torch.randn(shape)) for n, shape in {**TABLES, **OTHERS, **MATRICES}.items()}


def made(named: dict[str, torch.nn.Parameter], rate: float = 0.01) -> MuonAndAdamW:
    return MuonAndAdamW(named.items(), rate, weight_decay=0.0)


def stepped(optimizer: MuonAndAdamW, named: dict[str, torch.nn.Parameter], times: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(times):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_matrices_of_layers_take_orthogonal_steps_and_all_else_those_of_adam():
    named = parameters()
    before = {name: p.detach().clone() for name, p in named.items()}
    stepped(made(named), named, 1)
    for name, parameter in named.items():
        step = (parameter.detach() - before[name]) / 0.01
        if name in MATRICES:
            singular = torch.linalg.svdvals(step)
            assert singular.max() < 2.0 * singular.min()  # all about the same
        else:
            assert_close(step.abs(), torch.ones_like(step), rtol=1e-3, atol=1e-3)  # Adam's first step is the sign


def test_what_is_frozen_stays():
    named = parameters()
    named["layers.0.mlp.up_proj.weight"].requires_grad_(False)
    before = named["layers.0.mlp.up_proj.weight"].detach().clone()
    stepped(made(named), named, 1)
    assert_close(named["layers.0.mlp.up_proj.weight"].detach(), before)


def test_one_schedule_sets_the_rate_of_both_also_after_going_on():
    named = parameters()
    optimizer = made(named)
    stepped(optimizer, named, 2)
    state = deepcopy(optimizer.state_dict())
    again = {name: torch.nn.Parameter(p.detach().clone()) for name, p in named.items()}
    resumed = made(again)
    resumed.load_state_dict(state)
    for each, of in ((optimizer, named), (resumed, again)):
        for group in each.param_groups:
            group["lr"] = 0.002
        stepped(each, of, 2, seed=2)
    for name in named:
        assert_close(again[name].detach(), named[name].detach(), rtol=0.0, atol=0.0)
    frozen = {name: p.detach().clone() for name, p in again.items()}
    for group in resumed.param_groups:
        group["lr"] = 0.0
    stepped(resumed, again, 1, seed=3)
    for name in again:
        assert_close(again[name].detach(), frozen[name])
