"""Distributions of numbers: what is planted in a checkpoint comes back from the tree."""

import math

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import Size

from vlm3_ros.tasks import Grammar, Number, Question
from vlm3_ros.vlm import Picture
from vlm3_ros.vlm.decoding import Row
from vlm3_ros.vlm.digits import Alphabet, places_in
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.loading import load

PICTURE = Picture(np.zeros((64, 64, 3), np.uint8), (64, 64))
# A checkpoint whose layers add nothing is a table: the next token depends on the last one only.
TABLE = Size(hidden=64, layers=1, deepstack=(0,), tied=False)


def table_checkpoint(folder, following):
    """``following[token][next]`` is the probability of a token's text behind another's; "" is the end."""
    checkpoints.make(folder, TABLE)
    checkpoint = load(str(folder), "cpu", "fp32")
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in {*following, *_nexts(following)}}
    ids[""] = [checkpoint.end_tokens[0]]
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding, head = model.model.language_model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        embedding[:, 0] = 1.0  # all other tokens
        head.zero_()
        size = math.sqrt(embedding.shape[1])  # of a unit vector after RMS norm
        for i, (token, probabilities) in enumerate(following.items(), start=1):
            (row,) = ids[token]
            embedding[row] = 0.0
            embedding[row, i] = 1.0
            head[:, i] = -30.0 / size
            for text, p in probabilities.items():
                (column,) = ids[text]
                head[column, i] = math.log(p) / size
    return checkpoint


def _nexts(following):
    return (text for probabilities in following.values() for text in probabilities)


def asked(checkpoint, parts, **options):
    """The answer to one question whose answers have this form."""
    with Engine(checkpoint, **options).look([PICTURE]) as view:
        return view.ask([Question("The", Grammar(parts), max_tokens=24)])[0]


DIGITS = {
    "\n": {" distance": 1.0},  # the prompt ends with a line feed
    " distance": {":": 1.0},
    ":": {" ": 1.0},
    " ": {"2": 0.45, "4": 0.55},
    "2": {".": 0.9, " meters": 0.1},
    "4": {".": 0.7, "5": 0.3},
    ".": {"1": 0.6, "5": 0.4},
    "1": {" meters": 1.0},
    "5": {" meters": 0.8, ".": 0.2},
    " meters": {"": 1.0},
}


def test_planted_probabilities_come_back(tmp_path):
    answer = asked(table_checkpoint(tmp_path, DIGITS), ("distance: ", Number(3, 1), " meters"))
    assert answer.text == " distance: 4.1 meters"
    assert answer.probability == pytest.approx(0.55 * 0.7 * 0.6, rel=1e-4)
    (found,) = answer.numbers
    expected = {
        2.0: 0.45 * 0.1,
        2.1: 0.45 * 0.9 * 0.6,
        2.5: 0.45 * 0.9 * 0.4,
        4.1: 0.55 * 0.7 * 0.6,
        4.5: 0.55 * 0.7 * 0.4,
        45.0: 0.55 * 0.3 * 0.8,
        45.1: 0.55 * 0.3 * 0.2 * 0.6,
        45.5: 0.55 * 0.3 * 0.2 * 0.4,
    }
    assert found.values.tolist() == pytest.approx(list(expected))
    assert found.probabilities.tolist() == pytest.approx(list(expected.values()), rel=1e-4)
    assert found.mode(ratio=0.3).values.tolist() == [2.0, 2.1, 2.5]  # heavier than 4 m, though 4.1 is the answer


def test_unlikely_beginnings_are_left_out_and_missed_in_the_mass(tmp_path):
    rare = {**DIGITS, " ": {"2": 0.99, "4": 0.01}}
    (found,) = asked(table_checkpoint(tmp_path, rare), ("distance: ", Number(3, 1), " meters")).numbers
    assert found.values.tolist() == pytest.approx([2.0, 2.1, 2.5])
    assert found.mass == pytest.approx(0.99, rel=1e-4)


@pytest.mark.parametrize(
    ("number", "low", "high", "count"),
    [
        (Number(1, 1), 1.2, 1.3, 2),
        (Number(1, 2), 1.22, 1.33, 4),
        (Number(2, 2), 1.22, 11.35, 4 + 2),  # 11.25: after three digits the middle of what may follow
        (Number(1, 5), 1.225, 1.335, 4),
    ],
)
def test_the_grammar_and_the_significant_digits_bound_the_tree(tmp_path, number, low, high, count):
    endless = {
        "\n": {":": 1.0},
        ":": {" ": 1.0},
        " ": {"1": 1.0},
        "1": {".": 0.51, "1": 0.49},
        ".": {"2": 0.5, "3": 0.5},
        "2": {"2": 0.5, "3": 0.5},
        "3": {"2": 0.5, "3": 0.5},
    }
    (found,) = asked(table_checkpoint(tmp_path, endless), (": ", number)).numbers
    assert found.values.min() == pytest.approx(low)
    assert found.values.max() == pytest.approx(high)
    assert len(found.values) == count


SIGNED = {  # as Qwen's tokenizer writes it: "=-" is one token, "=+" two
    "\n": {" Pitch": 1.0},
    " Pitch": {"=": 0.6, "=-": 0.4},
    "=": {"+": 0.9, "0": 0.1},
    "+": {"0": 1.0},
    "=-": {"0": 1.0},
    "0": {".": 1.0},
    ".": {"6": 1.0},
    "6": {"9": 1.0},
    "9": {",": 1.0},
    ",": {"": 1.0},
}


@pytest.mark.parametrize("negative", [0.4, 0.7])
def test_the_sign_is_part_of_the_number(tmp_path, negative):
    checkpoint = table_checkpoint(tmp_path, {**SIGNED, " Pitch": {"=": 1.0 - negative, "=-": negative}})
    answer = asked(checkpoint, ("Pitch=", Number(1, 2, signed=True), ","))
    assert answer.text == (" Pitch=-0.69," if negative > 0.5 else " Pitch=+0.69,")
    (found,) = answer.numbers
    assert found.values.tolist() == pytest.approx([-0.69, 0.69])
    assert found.probabilities.tolist() == pytest.approx([negative, 1.0 - negative], rel=1e-3)


@pytest.mark.parametrize(
    ("text", "copies", "before"),
    [
        ("around 8.49 meters. <answer> 8.49 </answer>", {}, "around 8.49 meters. <answer> "),
        ("around 8.49 meters. <answer> 8.49 </answer>", {1: 0}, "around "),
        ("around 8.49 meters. <answer> 8.47 </answer>", {1: 0}, "around 8.49 meters. <answer> "),
        ("<think> around 8.49 meters </think> <answer> 8.49 </answer>", {}, "<think> around "),
        ("<think> around 8.49 meters </think> <answer> 8.47 </answer>", {1: 0}, "<think> around "),
        (
            "<think> 8 at 84.9 meters </think> <answer> 8.49 </answer>",
            {},
            "<think> 8 at 84.9 meters </think> <answer> ",
        ),
    ],
    ids=["no copy", "copy", "no copy this time", "thought", "thought, not to the digit", "another thought"],
)
def test_a_number_that_is_said_twice_is_measured_where_it_first_stands(text, copies, before):
    c = checkpoints.loaded()
    alphabet = Alphabet(c.tokenizer)
    row = Row(c.tokenizer("\n")["input_ids"], 64, frozenset(), tokens=c.tokenizer(text)["input_ids"])
    own = [*row.suffix, *row.tokens]
    grammar = Grammar(("<answer> ", Number(3, 2), " </answer>"))
    (place,) = places_in(0, row, text, grammar, copies, alphabet)
    assert own[place.before] == place.token
    assert c.tokenizer.decode(own[1 : place.before + 1]) == before
    assert c.tokenizer.decode([place.end]) == (" </" if before.endswith("<answer> ") else " meters")
    assert places_in(0, row, "no number", grammar, {}, alphabet) == []


def test_they_can_be_left_out(tmp_path):
    answer = asked(table_checkpoint(tmp_path, DIGITS), ("distance: ", Number(3, 1), " meters"), distributions=False)
    assert answer.numbers == ()
