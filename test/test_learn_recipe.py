"""Recipes: files to settings and back, and the tokenizer that a new model starts with."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from tokenizers import Tokenizer

from vlm3_ros.config import ConfigError
from vlm3_ros.learn.recipe import Recipe, read_recipe, to_yaml
from vlm3_ros.learn.tokenizer import LABELS, protocol_texts, trim
from vlm3_ros.tasks import depth, matching

RECIPES = sorted((checkpoints.ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_are_recipes(path):
    assert read_recipe(path, {}).data


def test_a_recipe_survives_its_file(tmp_path: Path):
    recipe = Recipe().updated({"questions.depth": 7, "learning_rate": 1e-3, "model": "a/b", "recompute": True})
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe))
    assert read_recipe(file, {}) == recipe
    assert read_recipe(file, {"steps": 3}).steps == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 0", "steps must be in"),
        ("questions: {dept: 3}", "no setting questions.dept"),
        ("method: magic", "one of full, lora, qlora"),
        ("- 1", "must be a mapping"),
        ("a: [", "is no recipe"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path, text, says):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_recipe(tmp_path / "recipe.yaml", {})


def test_the_small_tokenizer_splits_the_protocol_as_qwens():
    path = checkpoints.qwen3_tokenizer()
    full = Tokenizer.from_file(str(path))
    small = Tokenizer.from_str(json.dumps(trim(json.loads(path.read_text(encoding="utf-8")), protocol_texts(LABELS))))
    assert small.get_vocab_size() < 1000
    rng = np.random.default_rng(0)
    texts = [*protocol_texts(LABELS)]
    texts += [question.text for question in depth.questions(rng.integers(0, 2000, (50, 2)).tolist())]
    texts += [depth.answer(metres) for metres in rng.uniform(0.05, 99.0, 50)]
    texts += [matching.answer(*pixel) for pixel in rng.integers(0, 1000, (50, 2)).tolist()]
    for text in texts:
        assert small.encode(text).tokens == full.encode(text).tokens
    other = "Zebras quietly juggle 7 vexing boxes, naïvely. 机器人"
    assert small.decode(small.encode(other).ids) == other  # anything can be written, in more tokens
