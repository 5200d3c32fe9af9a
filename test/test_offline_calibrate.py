"""`vlm3 calibrate`: models that answer lengths of rays or depth along z, with the errors that models have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import truth
from ruamel.yaml import YAML
from test_offline_run import vlm3

from benchmarks.calibrate import measured
from vlm3_ros.camera import from_references, taken_for
from vlm3_ros.config import ConfigError
from vlm3_ros.offline.calibrate import Answers, judged
from vlm3_ros.offline.settings import merge_into, read_config
from vlm3_ros.tasks import Question, depth
from vlm3_ros.vlm import Answer, Picture


class Model(truth.TruthVLM):
    """Answers lengths of rays or depth along z, times a factor, with noise, and a tenth of it wildly wrong."""

    def __init__(self, meaning: str, factor: float, noise: float, folder: Path):
        frames = truth.manifest_frames(folder)
        super().__init__(lambda image: frames[truth.fingerprint(image)])
        self.meaning, self.factor, self.noise = meaning, factor, noise
        self.rng = np.random.default_rng(0)

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[View]:
        with super().look(pictures) as view:
            yield View(self, view)


class View:
    def __init__(self, model: Model, view: truth.TruthView):
        self._model, self._view, self._seen = model, view, view._seen[0]
        self._level = np.exp(model.rng.normal(0.0, model.noise))  # of all answers about this picture

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        answers = self._view.ask(questions)
        return [self._changed(q.text, a.text) for q, a in zip(questions, answers, strict=True)]

    def _changed(self, question: str, text: str) -> Answer:
        ray = depth.parse(text)
        if not isinstance(ray, float):
            return Answer(text, 1.0)
        reference = np.array([list(map(int, re.search(r"\((\d+), (\d+)\)", question).groups()))])
        pixel = from_references(reference, self._seen.size, depth.BINS)
        factor = np.linalg.norm(taken_for(self._seen, depth.FOCAL).rays(pixel))
        metres = ray if self._model.meaning == "ray" else ray / factor
        rng, noise = self._model.rng, self._model.noise
        metres *= self._level * np.exp(rng.normal(0.0, noise)) / self._model.factor
        return Answer(depth.answer(metres * 3.0 if noise and rng.random() < 0.1 else metres), 1.0)


def model(spec: str) -> Model:
    """`test_offline_calibrate:model:<ray or z>,<factor its answers need>,<noise>,<manifest folder>`."""
    meaning, factor, noise, folder = spec.split(",", 3)
    return Model(meaning, float(factor), float(noise), Path(folder))


def room(folder: Path, frames: int = 12, focal: float = 60.0) -> Path:
    """Walls that each picture sees from another side; returns the folder of a manifest."""
    rng, entries = np.random.default_rng(1), []
    u, v = np.meshgrid((np.arange(64) - 31.5) / focal, (np.arange(48) - 23.5) / focal)
    folder.mkdir()
    for i in range(frames):
        a, b = rng.uniform(-0.5, 0.5, 2)
        z = rng.uniform(2.0, 4.0) / (1.0 + a * u + b * v)
        cv2.imwrite(str(folder / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
        cv2.imwrite(str(folder / f"z{i}.png"), (z * 1000).astype(np.uint16))
        entry = {"rgb": f"{i}.png", "depth": f"z{i}.png", "depth_scale": 1000, "width": 64, "height": 48}
        entries.append(entry | {"K": [focal, focal, 31.5, 23.5], "T_world_cam": np.eye(4).tolist()})
    (folder / "manifest.json").write_text(json.dumps({"frames": entries}))
    return folder


def calibrated(folder: Path, meaning: str, factor: float, noise: float, *words: object) -> int:
    model = f"test:test_offline_calibrate:model:{meaning},{factor},{noise},{folder}"
    return vlm3("calibrate", folder, "--model", model, *words)


@pytest.mark.parametrize("meaning", ["ray", "z"])
@pytest.mark.parametrize(("factor", "noise"), [(1.0, 0.0), (1.25, 0.03)])
def test_meaning_and_factor_are_found_and_written(tmp_path, meaning, factor, noise):
    settings = tmp_path / "new" / "camera.yaml"
    assert calibrated(room(tmp_path / "room"), meaning, factor, noise, "--write", settings) == 0
    config = read_config(settings, [])
    assert config.depth.answer == meaning
    assert config.depth.scale == pytest.approx(factor, rel=0.01 + noise)


@pytest.mark.parametrize("meaning", ["ray", "z"])
@pytest.mark.parametrize("folder", ["sim_pybullet_room", "tum_fr3_cabinet"])
def test_recorded_rooms(data, capsys, folder, meaning):
    assert calibrated(data / folder, meaning, 0.9, 0.02, "--set", "depth.points=96") == 0
    shown = capsys.readouterr().out
    assert f"depth.answer        {meaning}\n" in shown
    value, low, high = map(float, re.search(r"depth.scale\s+([\d.]+) \[([\d.]+), ([\d.]+)\]", shown).groups())
    assert low <= 0.9 <= high
    assert value == pytest.approx(0.9, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_narrow_view_tells_the_factor_alone(tmp_path, capsys, noise):
    settings = tmp_path / "camera.yaml"
    narrow = room(tmp_path / "room", focal=300.0)
    assert calibrated(narrow, "ray", 1.25, noise, "--write", settings) == 1
    said = capsys.readouterr()
    assert "field of view is too narrow" in said.err
    assert "depth.answer        cannot be told" in said.out
    assert "written" in said.out
    assert read_config(settings, []).depth.scale == pytest.approx(1.25, rel=0.01 + noise)
    assert "answer" not in settings.read_text()


def test_file_that_cannot_be_written_does_not_hide_what_was_found(tmp_path, capsys):
    folder = room(tmp_path / "room")
    assert calibrated(folder, "z", 1.0, 0.0, "--write", folder / "manifest.json" / "my.yaml") == 1
    said = capsys.readouterr()
    assert "depth.answer        z\n" in said.out
    assert str(folder / "manifest.json") in said.err


def test_too_few_frames_cannot_tell(tmp_path, capsys):
    assert calibrated(room(tmp_path / "room", frames=4), "ray", 1.0, 0.0) == 1
    assert "there are 4 frames" in capsys.readouterr().err


def test_recording_without_true_depth_cannot_tell(tmp_path, capsys):
    folder = room(tmp_path / "room")
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["frames"][1:]:
        del entry["depth"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert calibrated(folder, "z", 1.0, 0.0) == 1
    captured = capsys.readouterr()
    assert "there are 1 frames" in captured.err
    assert "cannot be told" in captured.out


# ---------------------------------------------------------------------------------------------------- the judgement


def answers(
    slope: float, rng: np.random.Generator, frames: int = 20, compression: float = 1.0, levels: float = 0.0
) -> Answers:
    """Answers with a slope over the ray; depth falls towards the border, so that compressed range looks like rays."""
    made = Answers()
    for _ in range(frames):
        ray = np.exp(rng.uniform(0.0, 0.2, 300))
        z = 3.0 / ray**2 * np.exp(rng.normal(0.0, 0.3, 300))
        noise = np.exp(rng.normal(0.0, 0.05, 300) + rng.normal(0.0, levels))
        made.add(ray**slope * z ** (compression - 1.0) * noise, ray, z)
    return made


@pytest.mark.parametrize(("slope", "answer"), [(0.0, "z"), (1.0, "ray")])
@pytest.mark.parametrize("compression", [1.0, 0.8])
def test_compressed_range_is_not_taken_for_rays(rng, slope, answer, compression):
    found = judged(answers(slope, rng, compression=compression))
    assert found.answer == answer
    assert found.slope.low <= slope <= found.slope.high


@pytest.mark.parametrize(("frames", "field_deg", "noise"), [(5, 60.0, 0.12), (5, 30.0, 0.05), (12, 40.0, 0.25)])
def test_intervals_hold_what_they_say_and_verdicts_are_right(frames, field_deg, noise):
    """The long form of this is `python -m benchmarks.calibrate`; 0.95 of 120 is below 0.89 by chance in 1 of 200."""
    found = measured(frames, field_deg, noise, trials=120)
    assert found.slope_held >= 0.89
    assert found.scale_held >= 0.85
    assert found.wrong <= 0.02 * (found.right + found.wrong)
    assert found.right + found.scale_told > 0.3


@pytest.mark.parametrize("frames", [5, 40])
def test_no_verdict_where_the_field_of_view_cannot_carry_one(frames):
    found = measured(frames, 20.0, 0.05, trials=20)
    assert (found.right, found.wrong) == (0.0, 0.0)
    assert found.scale_told > 0.0


@pytest.mark.parametrize("slope", [0.5, -1.0, 2.0])
def test_contradictory_answers_cannot_tell(rng, slope):
    found = judged(answers(slope, rng))
    assert found.answer is None
    assert found.settings() == {}
    assert "contradict both" in found.doubts[0]


def test_frames_that_disagree_about_the_factor_tell_the_meaning_alone(rng):
    found = judged(answers(1.0, rng, levels=0.5))
    assert found.settings() == {"depth.answer": "ray"}
    assert "the factor is only known" in found.doubts[0]


# ------------------------------------------------------------------------------------------------- parameter files


@pytest.mark.parametrize(
    "before",
    [
        "/**:\n  ros__parameters:\n    depth:\n      points: 96  # few\n      scale: 1.0\n",
        "/camera/vlm3:\n  ros__parameters:\n    depth.points: 96  # few\n    depth.answer: ray\n",
        "/**:\n  ros__parameters:  # few\n    {depth: {points: 96}}\n",
    ],
)
def test_parameter_file_keeps_what_it_has(tmp_path, before):
    file = tmp_path / "camera.yaml"
    file.write_text(before)
    merge_into(file, {"depth.answer": "z", "depth.scale": 1.1})
    config = read_config(file, [])
    assert (config.depth.points, config.depth.answer, config.depth.scale) == (96, "z", 1.1)
    assert "few" in file.read_text()
    (parameters,) = YAML(typ="safe").load(file.read_text()).values()
    assert (
        sum(
            "answer" in name
            for name in (*parameters["ros__parameters"], *parameters["ros__parameters"].get("depth", ()))
        )
        == 1
    )


@pytest.mark.parametrize("content", ["", "/**:\n  ros__parameters:\n", "# nothing yet\n"])
def test_empty_parameter_file_is_filled(tmp_path, content):
    file = tmp_path / "camera.yaml"
    file.write_text(content)
    merge_into(file, {"depth.answer": "z"})
    assert read_config(file, []).depth.answer == "z"


@pytest.mark.parametrize(
    "content",
    ["a:\n  ros__parameters: {}\nb:\n  ros__parameters: {}\n", "[1, 2]", "depth: {scale: 1.0}", "depth: 1", "a: [b"],
)
def test_what_is_no_parameter_file_is_left_alone(tmp_path, content):
    file = tmp_path / "camera.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        merge_into(file, {"depth.answer": "z"})
    assert file.read_text() == content
