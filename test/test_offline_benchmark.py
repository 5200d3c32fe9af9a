"""`vlm3 benchmark`: label files in their published forms, asked of models that are right and of such that are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted import Scripted
from test_offline_run import vlm3
from truth import TrueFrame, TruthVLM

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import motion
from vlm3_ros.offline.benchmark import AS_PUBLISHED
from vlm3_ros.offline.labels import LabelFile
from vlm3_ros.offline.published import ROWS, known_dataset
from vlm3_ros.offline.sources import SourceError
from vlm3_ros.tasks import depth, matching, pose
from vlm3_ros.vlm import VLM, Answer

CAMERA = Camera(640, 512, 500.0, 500.0, 319.5, 255.5)  # becomes 1280x1024 of 1000 px, and 960x768 of 750 px
MOVED = motion.relative_pose(pose.PoseAnswer(10.0, (10.0, 0.0, 0.0), (0.6, 0.0, 0.8), 0.5))
A, B = "bounding box region (0, 39, 652, 999)", "bounding box region (6, 380, 228, 562)"

models: dict[str, VLM] = {}


def model(name: str) -> VLM:
    """`test_offline_benchmark:model:<name>`, of those that a test has made."""
    return models[name]


def benchmarked(labels: Path, answers: VLM, *words: object) -> int:
    models["asked"] = answers
    return vlm3("benchmark", labels, "--model", "test:test_offline_benchmark:model:asked", *words)


def result(labels: Path, answers: VLM, *words: object) -> dict:
    out = labels.with_name("result.json")
    assert benchmarked(labels, answers, "--out", out, *words) == 0
    return json.loads(out.read_text())["result"]


def reply(answer: Callable[[str], str]) -> Scripted:
    return Scripted(lambda question: Answer(answer(question.text), 1.0))


def written(folder: Path, name: str, content: dict | list[dict]) -> Path:
    """A label file, and a picture of its own for every image that it names."""
    entries = content if isinstance(content, list) else [content]
    for i, entry in enumerate(entries):
        for level, key in enumerate(("image", "image_1", "image_2")):
            if key in entry:
                size = entry.get(f"{key}_size_resized", SIZE)
                colour = np.full((size["height"], size["width"], 3), 10 * i + level, np.uint8)
                assert cv2.imwrite(str(folder / entry[key]), colour)
    (folder / name).write_text("\n".join(map(json.dumps, entries)))
    return folder / name


def wall(camera: Camera = CAMERA, metres: float = 3.0) -> TruthVLM:
    """Two pictures of a wall, the second one from MOVED."""
    poses = {1: np.eye(4), 2: MOVED}

    def seen(image: np.ndarray) -> TrueFrame:
        T = poses.get(int(image[0, 0, 0]) % 10, np.eye(4))
        rays = camera.rays(np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1))
        return TrueFrame(camera, (metres - T[2, 3]) / (rays @ T[2, :3]), T)

    return TruthVLM(seen)


SIZE = {"width": 640, "height": 512}
INTRINSICS = {"fx": 500.0, "fy": 500.0, "cx": 319.5, "cy": 255.5}


# ------------------------------------------------------------------------------------------------------- depth


def ibims(metres: list[float]) -> dict:
    """An image in DepthLM's form, with so many labels along its upper border."""
    pixels = [[100 * i + 64, 20] for i in range(len(metres))]
    return {
        "image": "a.png",
        "intrinsics": [500.0, 500.0, 319.5, 255.5, 640, 512],
        "pixel_coords": pixels,
        "depth": metres,
    }


def test_depth_of_a_right_model(tmp_path):
    rays = np.linalg.norm(CAMERA.rays(np.array(ibims([0.0] * 5)["pixel_coords"])), axis=1)
    lengths = (3.0 * rays).tolist()  # what the double answers, the wall being 3 m away
    found = result(written(tmp_path, "val.jsonl", [ibims(lengths), ibims(lengths[:3])]), wall())
    assert (found["labels"], found["pixels"], found["delta1"], found["left_out"]) == (2, 8, 1.0, 0)
    assert found["abs_rel"] < 0.01


def test_depth_of_a_wrong_model(tmp_path):
    # Answers 3 m: right for labels from 2.4 m to 3.75 m, that is for 3 of 5; the fourth question has no answer.
    labels = written(tmp_path, "val.jsonl", ibims([3.0, 3.7, 2.5, 3.0, 3.8]))
    found = result(labels, reply(lambda text: "far" if "(1138, " in text else depth.answer(3.0)))
    assert (found["pixels"], found["without_answer"]) == (5, 1)
    assert found["delta1"] == pytest.approx(3 / 5)
    errors = [abs(3.0 / label - 1) for label in (3.0, 3.7, 2.5, 3.8)]
    assert (found["coverage"], found["abs_rel"]) == pytest.approx((4 / 5, np.mean([*errors, 1.0])), abs=0.01)
    assert found["abs_rel_answered"] == pytest.approx(np.mean(errors), abs=0.01)


def test_depth_beyond_the_range_of_the_node_counts(tmp_path):
    labels = written(tmp_path, "val.jsonl", ibims([124.3, 1300.0]))
    far = iter([depth.answer(127.9), depth.answer(1250.0)])
    assert result(labels, reply(lambda _: next(far)))["delta1"] == 1.0


def test_interrupted_benchmark_says_so(tmp_path, capsys):
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    labels = written(tmp_path, "val.jsonl", ibims([3.0]))
    assert benchmarked(labels, reply(interrupted), "--out", tmp_path / "new" / "result.json") == 130
    assert capsys.readouterr().err.endswith("vlm3 benchmark: interrupted\n")
    assert not (tmp_path / "new" / "result.json").exists()


def test_numbers_are_written_where_there_was_no_folder(tmp_path, capsys):
    labels, answers = written(tmp_path, "val.jsonl", ibims([3.0])), reply(lambda _: depth.answer(3.0))
    assert benchmarked(labels, answers, "--out", tmp_path / "new" / "result.json") == 0
    assert json.loads((tmp_path / "new" / "result.json").read_text())["result"]["delta1"] == 1.0
    assert benchmarked(labels, answers, "--out", labels / "result.json") == 1
    assert str(labels) in capsys.readouterr().err


def test_published_coordinates_are_asked(tmp_path):
    # Of VLM³'s depth_labels.json: 1215x920, pixel (10, 488) is asked as (16, 1061), (710, 320) as (1169, 696).
    cv2.imwrite(str(tmp_path / "depth.png"), np.zeros((920, 1215, 3), np.uint8))
    pixels = [(10, 488), (710, 320), (223, 406)]
    label = {
        "image": "depth.png",
        "image_size": {"width": 1215, "height": 920},
        "intrinsics_after_focal_normalization_to_1000": {"fx": 1000.0, "fy": 1000.0, "cx": 609.06, "cy": 458.13},
        "samples": [{"pixel_coord_resized": pixel, "depth_meters": 8.0} for pixel in pixels],
    }
    (tmp_path / "depth_labels.json").write_text(json.dumps(label))
    asked = reply(lambda _: depth.answer(8.0))
    assert result(tmp_path / "depth_labels.json", asked)["delta1"] == 1.0
    found = [tuple(map(int, re.search(r"\((\d+), (\d+)\)", text).groups())) for text in asked.questions]
    assert found == [(16, 1061), (1169, 696), (367, 883)]


# -------------------------------------------------------------------------------------------- matches and poses


def pair(pixels: list[tuple[list[float], list[float]]], size: dict[str, int] = SIZE) -> dict:
    labelled = [{"img1_pixel_in_resized": first, "img2_pixel_in_resized": second} for first, second in pixels]
    images = {"image_1": "1.png", "image_2": "2.png", "image_1_size_resized": size, "image_2_size_resized": size}
    return {**images, "correspondences": labelled}


def test_matches_of_a_right_model(tmp_path):
    pixels = []
    for first in ([300.0, 200.0], [400.0, 300.0], [500.0, 400.0]):
        point = np.linalg.inv(MOVED) @ [*(CAMERA.rays(np.array(first)) * 3.0), 1.0]
        pixels.append((first, CAMERA.project(point[:3]).tolist()))
    labels = written(tmp_path, "corr.json", pair(pixels))
    found = result(labels, wall(), "--set", "matches.think=false")  # the double does not think
    assert (found["pixels"], found["without_answer"]) == (3, 0)
    assert found["epe"] < 2.0  # answers are integers, and the truth is that of the nearest pixel


def test_matches_just_off_the_image_count(tmp_path):
    labels = written(tmp_path, "corr.json", pair([([10.0, 10.0], [0.0, 512.0])], {"width": 1024, "height": 1024}))
    assert result(labels, reply(lambda _: "-3, 500"))["epe"] == pytest.approx(3.0)


def test_matches_of_a_wrong_model(tmp_path):
    # The true place is at 250 and 500 thousandths; the answers are (253, 504) and (250, 510), and none.
    pixels = [([x, 10.0], [256.0, 512.0]) for x in (10.0, 20.0, 30.0)]
    labels = written(tmp_path, "corr.json", pair(pixels, {"width": 1024, "height": 1024}))
    answers = iter(["<think> Left. </think>\n\n(253, 504)", matching.answer(250, 510), "nowhere"])
    found = result(labels, reply(lambda _: next(answers)))
    assert (found["pixels"], found["without_answer"]) == (3, 1)
    assert found["epe"] == pytest.approx((5 + 10 + 1000 * 2**0.5) / 3, abs=1e-9)
    assert found["epe_answered"] == pytest.approx((5 + 10) / 2, abs=1e-9)


def pose_label() -> dict:
    of = {"image_1": "1.png", "image_2": "2.png", "image_1_size_resized": SIZE, "image_2_size_resized": SIZE}
    of |= {"intrinsics_1_resized": INTRINSICS, "intrinsics_2_resized": INTRINSICS}
    true = {"rotation_angle_deg": 10.0, "yaw_deg": 10.0, "pitch_deg": 0.0, "roll_deg": 0.0}
    true |= {"translation_unit_vector": "(+0.60, +0.00, +0.80)", "translation_distance_m": 0.5}
    return of | {"ground_truth_pose": true}


def test_pose_of_a_right_model(tmp_path):
    found = result(written(tmp_path, "pose.json", pose_label()), wall())
    assert (found["pairs"], found["answered"]) == (1, 1)
    assert found["auc30"] == pytest.approx(1.0, abs=0.02)  # answers are rounded
    assert found["length_rel_median"] < 0.03


def test_pose_of_a_wrong_model(tmp_path):
    # One pair turned by 6° too much, one without an answer: recall is 1/2 from 6° on, and rises to it from 0.
    answers = [*pose.answers(pose.PoseAnswer(16.0, (16.0, 0.0, 0.0), (0.6, 0.0, 0.8), 0.5)), *["no"] * 4]
    labels = written(tmp_path, "pose.jsonl", [pose_label(), pose_label()])
    iterator = iter(answers)
    found = result(labels, reply(lambda _: next(iterator)))
    assert (found["pairs"], found["answered"]) == (2, 1)
    assert found["auc30"] == pytest.approx((6 * 0.25 + 24 * 0.5) / 30, abs=1e-6)


def test_rotation_and_direction_are_enough_for_the_angles(tmp_path):
    # Some sets have no scale, and their labels no distance; an answer may lack it too.
    unscaled = pose_label()
    unscaled["ground_truth_pose"] = {**unscaled["ground_truth_pose"], "translation_distance_m": None}
    del unscaled["ground_truth_pose"]["rotation_angle_deg"]
    _, euler, direction, distance = pose.answers(pose.PoseAnswer(10.0, (10.0, 0.0, 0.0), (0.6, 0.0, 0.8), 1.0))
    given = iter(["?", euler, direction, "?", "?", euler, direction, distance, "?", "?", direction, distance])
    labels = written(tmp_path, "pose.jsonl", [pose_label(), unscaled, pose_label()])
    found = result(labels, reply(lambda _: next(given)))
    assert (found["pairs"], found["answered"], found["refused"]) == (3, 2, {"unparsed": 1})
    assert found["auc30"] == pytest.approx(2 / 3)
    assert found["length_rel_median"] == 1.0  # the first and the third label have one, and no answer has
    assert found["length_rel_median_answered"] is None


def test_published_pose_is_read_as_its_conventions_say(tmp_path):
    true = {"rotation_angle_deg": 89.6547345694857, "yaw_deg": 89.60077227075526, "pitch_deg": 2.598684372865458}
    true |= {"roll_deg": 6.072327841623985, "translation_unit_vector": "(-0.69, +0.02, +0.72)"}
    entry = pose_label() | {"ground_truth_pose": true | {"translation_distance_m": 1.9806591332884265}}
    T = motion.relative_pose(LabelFile(written(tmp_path, "pose.json", entry))[0].pose)
    assert np.linalg.norm(T[:3, 3]) == pytest.approx(1.9806591332884265)
    assert motion.pose_answer(T).angle_deg == pytest.approx(true["rotation_angle_deg"], abs=1e-6)


# -------------------------------------------------------------------------------------------- questions in words


def question(i: int, category: str, prompt: str, answer: str) -> dict:
    size = {"image_size_resized": SIZE, "intrinsics_after_focal_normalization_to_1000": INTRINSICS}
    return {"image": f"{i}.png", **size, "qa_info": {"category": category}, "prompt": prompt, "answer": answer}


QUESTIONS = [
    question(
        0,
        "small_predicate",
        f"Can you confirm if {A} is smaller than {B}?",
        f"Incorrect, {A} is not smaller in size than {B}.",
    ),
    question(1, "width", f"What is the width of {A}?", f"The width of {A} is 1.0 meters."),
    question(2, "width", f"What is the width of {B}?", f"The width of {B} is 2.0 meters."),
    question(3, "direction", f"If you are at {A}, where will you find {B}?", "3 o'clock"),
]


def test_questions_of_a_right_model(tmp_path):
    right = {entry["prompt"]: entry["answer"] for entry in QUESTIONS}
    asked = reply(right.__getitem__)  # the prompts are asked letter by letter
    found = result(written(tmp_path, "srgpt.jsonl", QUESTIONS), asked)
    assert (found["qualitative"], found["quantitative"], found["length_rel"]) == (1.0, 1.0, 0.0)
    assert asked.questions == list(right)


def test_questions_of_a_wrong_model(tmp_path):
    answers = iter(["Yes, it is.", "1.2 meters", "3 meters", "6 o'clock"])  # wrong; 20 %; 50 %; three hours
    found = result(written(tmp_path, "srgpt.jsonl", QUESTIONS), reply(lambda _: next(answers)))
    assert found["qualitative"] == 0.0
    assert found["quantitative"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["quantitative_questions"] == pytest.approx(1 / 3)
    assert found["length_rel"] == found["length_rel_questions"] == pytest.approx((0.2 + 0.5) / 2)
    assert found["clock_deg"] == pytest.approx(90.0)


# ------------------------------------------------------------------------------------------------- the command


def test_row_stands_beside_the_paper(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", ibims([3.0] * 5))
    assert benchmarked(labels, wall(), "--dataset", "ibims1") == 0
    shown = capsys.readouterr().out
    assert re.search(r"δ1 +1 +0.96\n", shown)
    assert "5 pixels, 0 without answer" in shown
    assert benchmarked(labels, wall()) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} {value:g}" in shown for name, value in ROWS["depth"][0].paper.items())


def test_dataset_that_is_not_in_the_table_is_refused(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", ibims([3.0] * 5))
    assert benchmarked(labels, wall(), "--dataset", "DTU") == 1
    assert "iBims-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        ("depth", "scannet++", "ScanNet++"),
        ("depth", "ScanNetPP", "ScanNet++"),
        ("depth", "SUN RGB-D", "sunRGBD"),
        ("depth", "NYU-Depth-v2", "NYUv2"),
        ("matching", "TartanAir-WB", "TartanAir"),
        ("objects", "SpatialRGPT", "SpatialRGPT-Bench"),
    ],
)
def test_names_of_data_sets(kind, name, known):
    assert known_dataset(kind, name) == known


@pytest.mark.parametrize("name", ["ScanNet", "ScanNet v2", "NYU", "SUN", "Argoverse", "", "++", "DTU"])
def test_no_other_data_set_is_guessed(name):
    with pytest.raises(SourceError, match=re.escape("may be Argoverse2, DDAD, NuScenes, ETH3D, ScanNet++")):
        known_dataset("depth", name)


def test_last_part_of_the_list(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", [ibims([3.0])] * 9 + [ibims([-1.0]), ibims([3.0])])
    answers = reply(lambda _: depth.answer(3.0))
    assert result(labels, answers, "--dataset", "ScanNet++", "--last", "0.2")["labels"] == 3  # from 0.8 · 11 on
    shown = capsys.readouterr()
    assert "the last 2 % of its ScanNet++ list" in shown.out
    assert "label 10 of" in shown.err
    assert result(labels, answers)["labels"] == 11
    for share in ("0", "1.5", "nan", "two"):
        with pytest.raises(SystemExit):
            benchmarked(labels, answers, "--last", share)


def test_answers_without_a_value_are_counted_and_shown(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", ibims([3.0, 3.0, 3.0]))
    long = "<think> The point lies on a surface that " + "goes on and " * 100 + "is 3.1"
    given = iter([Answer(long, 1.0, is_cut=True), Answer("far", 1.0), Answer("<answer> -2 </answer>", 1.0)] * 2)
    assert benchmarked(labels, Scripted(lambda _: next(given)), "--out", tmp_path / "out.json") == 1
    shown = capsys.readouterr()
    assert "3 of 3 answers gave no value (1 cut off, 1 unparsed, 1 out of range), such as '<think> The" in shown.err
    assert "no label got an answer with a value" in shown.err
    assert len(shown.err) < 500
    refused = json.loads((tmp_path / "out.json").read_text())["result"]["refused"]
    assert refused == {"cut_off": 1, "unparsed": 1, "out_of_range": 1}


@pytest.mark.parametrize("kind", ["depth", "matching", "pose", "objects"])
def test_no_kind_ends_well_without_a_value(tmp_path, capsys, kind):
    entry = {"depth": ibims([3.0]), "matching": pair([([9.0, 9.0], [9.0, 9.0])]), "pose": pose_label()}
    labels = written(tmp_path, "labels.json", {**entry, "objects": QUESTIONS[0]}[kind])
    assert benchmarked(labels, reply(lambda _: "!!!!")) == 1
    assert "(1 unparsed), such as '!!!!'" in capsys.readouterr().err


def test_one_value_is_enough_for_a_good_end(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", ibims([3.0, 3.0]))
    given = iter(["far", depth.answer(3.0)])
    assert benchmarked(labels, reply(lambda _: next(given))) == 0
    assert "1 of 2 answers gave no value (1 unparsed), such as 'far'" in capsys.readouterr().err


def test_bad_labels_are_left_out_and_counted(tmp_path, capsys):
    labels = written(tmp_path, "val.jsonl", [ibims([3.0] * 5), ibims([-1.0])])
    assert result(labels, wall())["left_out"] == 1
    assert "label 2 of" in capsys.readouterr().err
    (tmp_path / "a.png").unlink()
    assert benchmarked(labels, wall()) == 1
    assert "none of the 2 labels" in capsys.readouterr().err


def test_settings_are_those_of_the_published_evaluation_unless_named(tmp_path):
    labels, out = written(tmp_path, "val.jsonl", ibims([3.0] * 5)), tmp_path / "out.json"
    assert benchmarked(labels, wall(), "--out", out, "--set", "vlm.precision=nf4") == 0
    settings = json.loads(out.read_text())["settings"]
    assert {name: settings[name] for name in AS_PUBLISHED} == {**AS_PUBLISHED, "vlm.precision": "nf4"}


def test_missing_label_file_is_said(tmp_path, capsys):
    assert benchmarked(tmp_path / "val.jsonl", wall()) == 1
    assert "does not exist" in capsys.readouterr().err
