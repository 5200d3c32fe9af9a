"""The forward pass of training against transformers' own, one sequence a question."""

from __future__ import annotations

import math
from dataclasses import replace

import checkpoints
import lessons
import pytest
import torch
from checkpoints import TINY, WIDE, Size
from torch.testing import assert_close

from vlm3_ros.learn.auxiliary import Auxiliary, total
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.learn.heads import VERDICT_LAYER, attention_loss, place_attention_loss
from vlm3_ros.learn.lesson import IGNORED, Lesson, lesson
from vlm3_ros.learn.looks import SharedPrefix, answer_loss, tree
from vlm3_ros.learn.places import tokens_inside
from vlm3_ros.learn.targets import DEPTH_BINS, DEPTHS_M, MOTION_BINS, motion_over_bins, spread_over_bins
from vlm3_ros.tasks import grounding, objects
from vlm3_ros.vlm.loading import Checkpoint


@pytest.fixture(params=[TINY, WIDE], ids=["tiny", "wide"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    loaded = checkpoints.loaded(request.param)
    loaded.model.requires_grad_(True)
    yield loaded
    loaded.model.requires_grad_(False)
    loaded.model.zero_grad()


def reference_loss(checkpoint: Checkpoint, lesson: Lesson, exchange: Exchange) -> tuple[torch.Tensor, int]:
    """The summed loss of one answer and its number of tokens, by transformers."""
    (question,) = checkpoint.chat.questions([exchange.question])
    answer = [*checkpoint.tokenizer(exchange.answer, add_special_tokens=False)["input_ids"], checkpoint.end_tokens[0]]
    pictures = checkpoint.chat.pictures([rows * columns for rows, columns in lesson.sizes])
    ids = torch.tensor([[*pictures, *question, *answer]])
    labels = torch.full_like(ids, -100)
    labels[0, -len(answer) :] = torch.tensor(answer)
    kinds = (ids == checkpoint.image_token).long()
    out = checkpoint.model(
        input_ids=ids,
        labels=labels,
        pixel_values=lesson.pixels,
        image_grid_thw=lesson.grids,
        mm_token_type_ids=kinds,
        use_cache=False,
    )
    return out.loss * len(answer), len(answer)


@pytest.mark.parametrize(("pictures", "recompute"), [(1, False), (2, False), (2, True)])
def test_loss_and_gradients_are_those_of_one_sequence_a_question(checkpoint, pictures, recompute):
    sample = lessons.sample(pictures=pictures)
    taught = lesson(sample, checkpoint)
    run = SharedPrefix(checkpoint, recompute)
    result = run(taught)
    got = {answered.rows.task: answer_loss(run.language, answered) for answered in result.answered}
    torch.stack(list(got.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in checkpoint.model.named_parameters() if p.grad is not None}
    checkpoint.model.zero_grad()

    expected = {}
    for task in got:
        parts = [reference_loss(checkpoint, taught, e) for e in sample.exchanges if e.task == task]
        expected[task] = sum(loss for loss, _ in parts) / sum(n for _, n in parts)
    torch.stack(list(expected.values())).sum().backward()
    assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for name, parameter in checkpoint.model.named_parameters():
        if parameter.grad is not None:
            scale = float(parameter.grad.abs().max())
            assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


def test_what_questions_share_is_fed_once():
    checkpoint = checkpoints.loaded(TINY)
    (head, rows), *_ = lesson(lessons.sample(), checkpoint).groups
    assert checkpoint.tokenizer.decode(head).endswith("at coordinates (")
    assert rows.tokens.shape[0] == 5
    learned = rows.labels != IGNORED
    whole = [checkpoint.tokenizer.decode(labels[kept]) for labels, kept in zip(rows.labels, learned, strict=True)]
    assert whole == [e.answer + "<|im_end|>" for e in rows.exchanges]


def test_an_abridged_lesson_keeps_positions_and_leaves_out_constant_text():
    checkpoint = checkpoints.loaded(TINY)
    whole = lesson(lessons.sample(), checkpoint).groups[0][1]
    brief = lesson(lessons.sample(), checkpoint, {"depth": (10, 0)}).groups[0][1]
    assert brief.tokens.shape[1] < whole.tokens.shape[1] / 3
    for row, (tokens, depth) in enumerate(zip(brief.tokens, brief.depth, strict=True)):
        fed = depth[: int((brief.labels[row] != IGNORED).nonzero().max()) + 1]
        assert (whole.tokens[row, fed] == tokens[: len(fed)]).all()
        own, rest = checkpoint.tokenizer.decode(tokens[: brief.asked[row] + 1]), fed[brief.asked[row] + 1]
        assert own in brief.exchanges[row].question
        assert rest > brief.asked[row] + 20  # the gap


def test_an_abridged_answer_keeps_its_start_and_its_end():
    checkpoint = checkpoints.loaded(TINY)
    regions = (100, 200, 300, 400), (500, 600, 700, 800)
    question = objects.length("distance", *regions).text
    answer = objects.length_answer("distance", 0.64, *regions)
    sample = Sample("", "", lessons.sample().pictures, (Exchange("objects", question, answer),))
    whole, brief = (lesson(sample, checkpoint, a).groups[0][1] for a in (None, {"objects": (2, 9)}))
    learned = brief.labels[0][brief.labels[0] != IGNORED]
    of_whole = whole.labels[0][whole.labels[0] != IGNORED]
    assert learned.tolist() == [*of_whole[:2], *of_whole[-9:]]
    assert checkpoint.tokenizer.decode(learned[2:]).endswith("0.64 meters.<|im_end|>")
    assert (whole.tokens[0, brief.depth[0]] == brief.tokens[0]).all()


@pytest.mark.parametrize(
    ("answer", "first", "later"),
    [
        ("<answer> 12.34 </answer>", ["<", "1", "2"], ["3", "4"]),
        ("<answer> 0.05 </answer>", ["<", "0", "0", "5"], []),
        ("<answer> 0.123 </answer>", ["<", "0", "1", "2"], ["3"]),
        ("Yaw=-10.0°, Pitch=+3.3°", ["Y", "=-", "1", "0", "+", "3", "3"], ["0"]),
        (objects.length_answer("width", 0.641, (100, 200, 300, 400)), ["T", "0", "6", "4"], []),
    ],
)
def test_what_an_answer_says_is_told_from_its_words(answer, first, later):
    checkpoint = checkpoints.loaded(TINY)
    exchange = Exchange("objects", objects.length("width", (100, 200, 300, 400)).text, answer)
    rows = lesson(Sample("", "", lessons.sample().pictures, (exchange,)), checkpoint).groups[0][1]
    places, labels = rows.digits[0], rows.labels[0]
    assert [checkpoint.tokenizer.decode(token) for token in labels[(places > 0) & (places < 3)]] == first
    assert [checkpoint.tokenizer.decode(token) for token in labels[places > 2]] == later


@pytest.mark.parametrize(("first", "later"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (5.0, 0.5)])
def test_digits_weigh_as_much_as_asked(first, later):
    checkpoint = checkpoints.loaded(TINY)
    run = SharedPrefix(checkpoint)
    with torch.no_grad():
        (answered,) = run(lesson(lessons.sample(), checkpoint)).answered
        got = answer_loss(run.language, answered, first, later)
    rows = answered.rows
    learned = rows.labels != IGNORED
    losses = torch.nn.functional.cross_entropy(
        run.language.all_logits(answered.last[learned]), rows.labels[learned], reduction="none"
    )
    places = rows.digits[learned]
    weights = torch.ones(len(losses))
    weights[(places == 1) | (places == 2)] = first
    weights[places > 2] = later
    assert (places > 2).any()
    assert_close(got, (weights * losses).sum() / weights.sum())


def test_tree_attention_is_attention_over_prefix_and_own_tokens():
    torch.manual_seed(0)
    rows, length, prefix, heads, kv_heads, channels = 3, 4, 7, 6, 2, 8
    q = torch.randn(rows * length, heads, channels)
    k, v = torch.randn(2, rows * length, kv_heads, channels)
    pk, pv = torch.randn(2, prefix, kv_heads, channels)
    mask = torch.full((length, length), float("-inf")).triu(1)
    got = tree(q, k, v, pk, pv, mask, rows, 0.3).view(rows, length, heads, channels)
    for row in range(rows):
        own = slice(row * length, (row + 1) * length)
        keys, values = torch.cat([pk, k[own]]), torch.cat([pv, v[own]])
        keys, values = (x.repeat_interleave(heads // kv_heads, dim=1).transpose(0, 1) for x in (keys, values))
        bias = torch.cat([torch.zeros(length, prefix), mask], dim=1)
        weights = (q[own].transpose(0, 1) @ keys.transpose(1, 2) * 0.3 + bias).softmax(-1)
        assert_close(got[row], (weights @ values).transpose(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pictures", [1, 2])
def test_auxiliary_losses_reach_the_vision_tower_and_shrink_when_followed(pictures):
    checkpoint = checkpoints.loaded(Size(layers=5))
    model = checkpoint.model.requires_grad_(True)
    torch.manual_seed(0)
    run, heads = SharedPrefix(checkpoint), Auxiliary(TINY.hidden)
    sample = lessons.sample(pictures=pictures, things=True)
    facts, taught = lessons.facts(sample), lesson(sample, checkpoint)
    optimizer = torch.optim.Adam([*model.parameters(), *heads.parameters()], lr=3e-3)
    history = []
    for _ in range(12):
        result = run(taught)
        losses = heads.pictures(facts, result.prefix) | heads.questions(result)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert model.model.visual.patch_embed.proj.weight.grad.abs().max() > 0.0
    assert history[0].keys() == (
        {"seen depth", "seen thing", "seen box", "position", "place", "look", "depth"}
        | {"found", "found box", "look for", "region", "first region", "look into", "verdict", "length"}
        if pictures == 1
        else {"seen depth", "seen thing", "seen box", "seen match", "position", "look back", "flow", "fine flow"}
        | {"motion", "asked motion", "asked numbers", "place", "look", "look there", "match", "fine match"}
    )
    assert sum(history[-1].values()) < 0.8 * sum(history[0].values())
    model.requires_grad_(False)


def test_each_number_of_a_motion_is_read_off_the_question_that_asks_for_it():
    checkpoint, heads = checkpoints.loaded(Size(layers=5)), Auxiliary(TINY.hidden).questions
    with torch.no_grad():
        result = SharedPrefix(checkpoint)(lesson(lessons.sample(pictures=2), checkpoint))
        (answered,) = (answered for answered in result.answered if answered.rows.task == "pose")
        answered.states[VERDICT_LAYER][range(4), answered.rows.asked] = torch.eye(4, TINY.hidden)
        true = motion_over_bins(answered.rows.exchanges).clamp(min=1e-20)
        told_by = heads.numbers.weight.view(8, MOTION_BINS, TINY.hidden)
        for number, question in enumerate((0, 1, 1, 1, 2, 2, 2, 3)):  # angle; yaw, pitch, roll; x, y, z; distance
            told_by[number, :, question] = true[number].log()
        heads.numbers.bias.zero_()
        loss = heads(replace(result, answered=[answered]))["asked numbers"]
    assert_close(loss, -(true * true.log()).sum(dim=1).mean())


def test_of_a_pair_both_pictures_are_learned_from():
    run, heads = SharedPrefix(checkpoints.loaded(Size(layers=5))), Auxiliary(TINY.hidden).pictures
    sample = lessons.sample(pictures=2)
    known = lessons.facts(sample)
    first, second = known.alone
    with torch.no_grad():
        prefix = run.read(run.see(sample.pictures))
        both = heads(known, prefix)
        each = [heads(replace(known, alone=alone), prefix) for alone in ((first, ()), ((), second))]
    for name in ("seen depth", "seen thing", "seen box"):
        assert each[0][name] != each[1][name]
        assert_close(both[name], (each[0][name] + each[1][name]) / 2)


def test_what_is_shown_smaller_is_as_much_farther_off():
    heads, picture = Auxiliary(TINY.hidden).pictures, torch.randn(3, 4, TINY.hidden)
    places = torch.rand(5, 2)
    nearer = heads.log_depths(picture, 1.0, places) - heads.log_depths(picture, 0.5, places)
    assert_close(nearer, torch.full((5,), math.log(2.0)))


def test_pictures_seen_together_are_as_if_seen_alone():
    run = SharedPrefix(checkpoints.loaded(TINY))
    pictures = [*lessons.sample(pictures=2).pictures, *lessons.sample(seed=1).pictures]
    with torch.no_grad():
        together = run.see(pictures).split([2, 1])
        for seen, shown in zip(together, (pictures[:2], pictures[2:]), strict=True):
            alone = run.see(shown)
            assert seen.sizes == alone.sizes
            assert_close([seen.tokens, *seen.deepstack], [alone.tokens, *alone.deepstack], rtol=1e-4, atol=1e-5)
            assert_close(run.read(seen).states, run.read(alone).states, rtol=1e-4, atol=1e-4)


TABLE, SOFA, LAMP = (100, 200, 500, 900), (300, 300, 400, 503), (300, 310, 320, 504)
ALIKE = {  # questions that begin alike, with what is named first as well
    "one region": [
        Exchange("objects", objects.comparison(kind, TABLE, other).text, "Yes.")
        for kind in ("bigger", "taller")
        for other in (SOFA, LAMP)
    ],
    "one name in another": [
        Exchange("grounding", grounding.question(name).text, "[]") for name in ("table", "table lamp")
    ],
}


@pytest.mark.parametrize("exchanges", [lessons.sample(things=True).exchanges, *ALIKE.values()], ids=["all", *ALIKE])
def test_names_and_regions_end_where_their_last_tokens_are(exchanges):
    checkpoint = checkpoints.loaded(TINY)
    sample = replace(lessons.sample(), exchanges=tuple(e for e in exchanges if e.task != "depth"))
    for head, rows in lesson(sample, checkpoint, {}).groups:
        assert all(token >= 0 for _, token in rows.named)
        ends = [checkpoint.tokenizer.decode(head + rows.tokens[row, : at + 1].tolist()) for row, at in rows.named]
        asked = enumerate(rows.exchanges)
        if rows.task == "grounding":
            expected = [(row, reading.label(e)) for row, e in asked]
        else:
            expected = [(row, ", ".join(map(str, region))) for row, e in asked for region in reading.regions(e)]
        assert [row for row, _ in rows.named] == [row for row, _ in expected]
        assert all(end.endswith(name) for end, (_, name) in zip(ends, expected, strict=True))


def test_looks_are_scored_by_attention_to_tokens_not_behind():
    keys = torch.eye(4)[:, None].repeat(1, 2, 1)  # [P, Hkv, D]
    queries = 100.0 * torch.eye(4)[[1, 3], None].repeat(1, 4, 1)
    assert float(attention_loss(queries, keys, torch.tensor([1, 3]))) < 1e-3
    assert float(attention_loss(queries, keys, torch.tensor([2, 2]))) > 10.0
    assert float(attention_loss(queries[1:], keys, torch.tensor([0]), own=torch.tensor([1]))) == pytest.approx(
        0.693, abs=1e-3
    )


@pytest.mark.parametrize("picture", [0, 1])
def test_looks_at_a_place_are_looks_at_its_token_in_its_picture(picture):
    run = SharedPrefix(checkpoints.loaded(TINY))
    with torch.no_grad():
        prefix = run.read(run.see(lessons.sample(pictures=2).pictures))
    rows, columns = prefix.visual.sizes[0]
    place = torch.tensor([[(1 + 0.5) / columns, (2 + 0.5) / rows]])  # column 1, row 2
    for number in (0, 1):
        key = prefix.keys[0][prefix.images[number * rows * columns + 2 * columns + 1]]
        loss = place_attention_loss(place, picture, 1000.0 * key[None], prefix, 0)
        assert (loss < 0.1) == (number == picture)


def test_a_depth_is_spread_over_bins_around_it():
    of_depths = spread_over_bins(torch.tensor([0.5, 2.0, 8.0]))
    edges = torch.linspace(*torch.tensor(DEPTHS_M).log(), DEPTH_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    assert_close(of_depths.sum(dim=1), torch.ones(3))
    assert_close((of_depths @ middles).exp(), torch.tensor([0.5, 2.0, 8.0]), rtol=0.01, atol=0.0)


def test_tokens_are_in_the_boxes_that_hold_their_middle_and_small_boxes_have_one():
    corners = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.9, 0.9, 0.92, 0.92]])
    inside = tokens_inside(corners, (2, 4))
    assert inside[:, 0].view(2, 4).tolist() == [[True, True, False, False]] * 2
    assert inside[:, 1].nonzero().flatten().tolist() == [7]
