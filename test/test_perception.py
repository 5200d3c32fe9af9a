"""Depth from frames, and which looks that takes, with models that answer from ground truth or as a test says."""

from __future__ import annotations

import numpy as np
import pytest
from scripted import CAMERA, TASKS, Scripted, Shelf, frame, metres, perception, world

from vlm3_ros.camera import Camera, taken_for, unified
from vlm3_ros.config import Config
from vlm3_ros.perception import Perception
from vlm3_ros.tasks import Question, Reason, depth
from vlm3_ros.vlm import Answer, Distribution, ModelError
from vlm3_ros.vlm.models import Models

# ---------------------------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("max_tokens", [80, 300, 1600])
@pytest.mark.parametrize(
    "camera", [CAMERA, Camera(640, 480, 380.0, 400.0, 330.0, 250.0), Camera(96, 200, 70, 70, 50, 90)]
)
def test_a_wall_is_flat_whatever_the_size_at_which_the_model_sees_it(camera, max_tokens):
    scene = perception(world(camera), {"camera.max_tokens": max_tokens}).perceive(frame(camera=camera), {"depth"})
    assert np.abs(scene.depth.map.depth - 4.0).max() < 0.05
    assert scene.depth.samples.z == pytest.approx(4.0, abs=0.02)
    assert scene.depth.camera == camera
    assert scene.tally.asked == len(scene.depth.samples.z)
    assert not scene.tally.refused


def test_rays_bend_a_wall_where_the_answer_is_z():
    """A model of z, read as one of rays, loses 1 / sqrt(1 + x² + y²) towards the corners; and the other way round."""
    model = Scripted(metres(4.0))
    seen = unified(CAMERA, 1000.0, 1600)
    for answer, bent in (("z", False), ("ray", True)):
        samples = perception(model, {"depth.answer": answer}).perceive(frame(), {"depth"}).depth.samples
        expected = 4.0 * seen.focal / 1000.0 * np.ones(len(samples.z))
        if bent:
            expected /= np.linalg.norm(taken_for(seen, 1000.0).rays(CAMERA.pixels_in(seen, samples.pixels)), axis=-1)
        np.testing.assert_allclose(samples.z, expected)
        assert (np.ptp(samples.z) > 0.3) == bent


def test_a_model_shown_less_focal_length_sees_a_deeper_room():
    """It knows how large things are, so a wall at 4 m lies at 4 · 1000 / 380 m for it, things on it where they were.

    Rays to these places are what it answers: less oblique than the true ones.
    """
    camera, z, f = Camera(640, 480, 380.0, 380.0, 319.5, 239.5), 4.0, 380.0

    def reply(question: Question) -> Answer:
        x, y = (int(n) for n in question.text[question.text.index("(") + 1 : question.text.index(")")].split(", "))
        aside, down = (x / 2000 * 640 - 319.5) / f * z, (y / 2000 * 480 - 239.5) / f * z
        return Answer(depth.answer(float(np.linalg.norm([aside, down, z * 1000.0 / f]))), 1.0)

    settings = {"camera.max_tokens": 300}  # 640x480 as it is
    samples = perception(Scripted(reply), settings).perceive(frame(camera=camera), {"depth"}).depth.samples
    np.testing.assert_allclose(samples.z, z, atol=0.003)


def test_samples_are_where_they_were_asked():
    """A reference number in the question, back to the image by the protocol: x / 2000 of the width the model sees."""
    model = Scripted(metres(2.0))
    samples = perception(model, {"depth.points": 60}).perceive(frame(), {"depth"}).depth.samples
    seen = unified(CAMERA, 1000.0, 1600)
    for text, pixel in zip(model.questions, samples.pixels, strict=True):
        x, y = (int(number) for number in text[text.index("(") + 1 : text.index(")")].split(", "))
        np.testing.assert_allclose(
            (pixel + 0.5) / CAMERA.size, (np.array([x, y]) / 2000 * seen.size + 0.5) / seen.size, atol=1e-12
        )
    (looked,) = model.looks
    assert [p.size for p in looked] == [seen.size]
    assert samples.points(CAMERA)[:, 2] == pytest.approx(samples.z)


def test_scale_multiplies_every_length():
    one, two = (
        perception(Scripted(metres(3.0)), {"depth.scale": scale}).perceive(frame(), {"depth"}).depth.samples.z
        for scale in (1.0, 1.25)
    )
    np.testing.assert_allclose(two, 1.25 * one)


def test_what_is_too_far_is_refused_and_counted():
    scene = perception(Scripted(metres(50.0)), {"depth.max_m": 30.0}).perceive(frame(), {"depth"})
    assert np.isnan(scene.depth.map.depth).all()
    assert np.isnan(scene.depth.samples.z).all()
    assert (scene.depth.samples.confidence == 0).all()
    assert scene.tally.refused == {Reason.OUT_OF_RANGE: scene.tally.asked}
    assert depth.answer(50.0) == scene.tally.examples[0].text


def test_a_time_budget_leaves_a_coarse_map():
    """The first 40 questions are answered: evenly spread, so that the map is whole but less sure."""
    count = iter(range(10**6))
    model = Scripted(lambda question: Answer(depth.answer(2.0), 0.9) if next(count) < 40 else None)
    scene = perception(model, {"depth.budget_s": 0.5}).perceive(frame(), {"depth"})
    assert model.budgets == [0.5]
    assert (scene.tally.asked, scene.tally.left_out) == (40, len(scene.depth.samples.z) - 40)
    assert not scene.tally.refused
    assert not scene.tally.examples
    assert np.isfinite(scene.depth.samples.z).sum() == 40
    assert np.isfinite(scene.depth.map.depth).mean() > 0.95
    answered = scene.depth.samples.pixels[np.isfinite(scene.depth.samples.z)]
    assert (np.ptp(answered, axis=0) > 0.75 * np.array(CAMERA.size)).all()
    assert perception(Scripted(metres(2.0))).perceive(frame(), {"depth"})
    unlimited = Scripted(metres(2.0))
    perception(unlimited).perceive(frame(), {"depth"})
    assert unlimited.budgets == [None]


TWO_SURFACES = Distribution(np.array([1.9, 2.0, 2.1, 6.0, 6.1]), np.array([0.1, 0.15, 0.15, 0.3, 0.25]))


@pytest.mark.parametrize(
    ("statistic", "value", "confidence"), [("greedy", 2.0, 0.4), ("median", 6.0, 0.55), ("mode", 6.0, 0.55)]
)
def test_the_value_taken_from_a_distribution(statistic, value, confidence):
    """Greedy digits may follow the lighter of two surfaces; median and mode never lie in the air between them."""
    settings = {"depth.statistic": statistic, "depth.answer": "z"}
    model = Scripted(metres(2.0, numbers=(TWO_SURFACES,)))
    samples = perception(model, settings).perceive(frame(), {"depth"}).depth.samples
    factor = unified(CAMERA, 1000.0, 1600).focal / 1000.0
    np.testing.assert_allclose(samples.z, value * factor)
    np.testing.assert_allclose(samples.confidence, confidence)
    np.testing.assert_allclose(samples.spread, 0.5 * (6.1 - 2.0) * factor)


def test_mode_is_the_heavier_surface_even_where_the_median_is_not():
    spread = Distribution(np.array([1.0, 3.0, 9.0, 9.1, 9.2]), np.array([0.3, 0.3, 0.14, 0.13, 0.13]))
    model = Scripted(metres(1.0, numbers=(spread,)))
    z = [
        perception(model, {"depth.statistic": name, "depth.answer": "z"})
        .perceive(frame(), {"depth"})
        .depth.samples.z[0]
        for name in ("median", "mode")
    ]
    np.testing.assert_allclose(np.array(z) * 1000.0 / unified(CAMERA, 1000.0, 1600).focal, [3.0, 9.1])


def test_an_answer_without_a_distribution_has_no_spread_and_its_own_probability():
    samples = (
        perception(Scripted(metres(2.0)), {"depth.statistic": "median"}).perceive(frame(), {"depth"}).depth.samples
    )
    assert np.isnan(samples.spread).all()
    assert (samples.confidence == 0.9).all()


@pytest.mark.parametrize("text", ["I cannot tell.", "<answer> -1 </answer>", "<answer> 0.0 </answer>", ""])
def test_answers_without_a_value_are_no_depth(text):
    scene = perception(Scripted(lambda question: Answer(text, 1.0))).perceive(frame(), {"depth"})
    assert np.isnan(scene.depth.map.depth).all()
    assert (scene.depth.map.confidence == 0).all()
    assert sum(scene.tally.refused.values()) == scene.tally.asked == len(scene.depth.samples.z)
    assert len(scene.tally.examples) == 3


def test_what_the_raw_image_does_not_show_is_neither_asked_nor_known():
    valid = np.ones((120, 160), bool)
    valid[:, :50] = False
    model = world()
    settings = {"depth.max_width": 80}  # the depth image is smaller than the mask
    scene = perception(model, settings).perceive(frame(valid=valid), {"depth"})
    unmasked = perception(model, settings).perceive(frame(), {"depth"})
    assert scene.tally.asked < unmasked.tally.asked
    assert (scene.depth.samples.pixels[:, 0] > 49.0).all()
    known = np.isfinite(scene.depth.map.depth)
    assert not known[:, :24].any()
    assert known[:, 26:].all()
    assert (scene.depth.map.confidence[~known] == 0).all()


def test_large_images_get_a_smaller_depth_image_with_its_own_camera():
    scene = perception(world(), {"depth.max_width": 100}).perceive(frame(), {"depth"})
    assert scene.depth.camera == CAMERA.resized(100, 75)
    assert scene.depth.map.depth.shape == scene.depth.image.shape[:2] == (75, 100)
    assert scene.depth.samples.pixels.max() > 100  # samples stay in pixels of the frame


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (641, 5)])
def test_images_of_any_size_are_perceived(size):
    camera = Camera(*size, 100.0, 100.0, size[0] / 2 - 0.5, size[1] / 2 - 0.5)
    scene = perception(world(camera)).perceive(frame(camera=camera), {"depth", "matches", "pose"})
    assert scene.depth.map.depth == pytest.approx(4.0, abs=0.1)


# -------------------------------------------------------------------------------------------------- looks and models


def test_tasks_of_one_checkpoint_share_one_look():
    model = Scripted(lambda q: Answer("[]" if "Locate" in q.text else depth.answer(2.0), 1.0))
    models = Models(dict.fromkeys(TASKS, "model"), Shelf(model=model))
    eyes = Perception(Config(), models)
    eyes.perceive(frame(), {"depth", "objects"})
    assert len(model.looks) == 1
    eyes.perceive(frame(1), {"depth", "objects"})
    assert len(model.looks) == 2  # a new frame, a new look
    assert models.status()[0].looks == 2


def test_tasks_of_two_checkpoints_look_once_each():
    seer, namer = Scripted(metres(2.0)), Scripted(lambda question: Answer("[]", 1.0))
    names = {"depth": "seer", "grounding": "namer"}
    Perception(Config(), Models(names, Shelf(seer=seer, namer=namer))).perceive(frame(), {"depth", "objects"})
    assert (len(seer.looks), len(namer.looks)) == (1, 1)
    assert all("how far" in text for text in seer.questions)


def test_only_what_is_wanted_is_asked():
    model = Scripted(metres(2.0))
    scene = perception(model).perceive(frame(), set())
    assert (scene.depth, scene.objects, scene.matches, scene.pose) == (None, None, None, None)
    assert not model.looks


def test_a_task_without_a_checkpoint_says_so():
    eyes = Perception(Config(), Models({"depth": "model"}, Shelf(model=Scripted(metres(2.0)))))
    with pytest.raises(ModelError, match="grounding"):
        eyes.perceive(frame(), {"objects"})


def test_a_model_that_fails_stops_the_frame_or_costs_one_task():
    eyes = Perception(Config(), Models({"depth": "model"}, Shelf(model=Scripted(metres(2.0)))))
    wanted = {"depth", "objects", "pose"}
    with pytest.raises(ModelError, match="'grounding'"):
        eyes.perceive(frame(), wanted)
    failed: dict[str, ModelError] = {}
    scene = eyes.perceive(frame(1), wanted, failed.__setitem__)
    assert failed.keys() == {"objects"}
    assert "'grounding'" in str(failed["objects"])
    assert scene.objects is None
    assert (scene.depth.samples.z > 0).all()
    assert scene.pose is not None
    assert scene.tally.seconds.keys() == wanted
