"""Tasks to models: shared, lazy, unloaded when memory runs short, one look a frame."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import checkpoints
import numpy as np
import pytest

from vlm3_ros.tasks import depth, objects
from vlm3_ros.vlm import Answer, ModelError, Picture
from vlm3_ros.vlm.local import LocalSource
from vlm3_ros.vlm.models import Models

TASKS = {"depth": "A", "objects": "A", "pose": "B", "matching": "C"}
PICTURES = [Picture(np.zeros((64, 64, 3), np.uint8), (64, 64)) for _ in range(2)]
QUESTIONS = depth.questions([(1, 2), (3, 4)])


class Memory:
    """A source of models of 4 GB each, on a device of 10 GB; keeps a diary."""

    def __init__(self, device_gb=10.0):
        self.free, self.diary = device_gb * 1e9, []

    def memory_bytes(self, name):
        return 4_000_000_000

    def free_bytes(self):
        return int(self.free)

    def image_scale(self, name):
        return 1.0

    def open(self, name):
        self.free -= 4e9
        self.diary.append(f"load {name}")
        return Model(self, name)


class Model:
    def __init__(self, memory, name):
        self.memory, self.name = memory, name

    @contextmanager
    def look(self, pictures):
        self.memory.diary.append(f"look {self.name} {len(pictures)}")
        yield self
        self.memory.diary.append(f"forget {self.name}")

    def ask(self, questions, budget_s=None):
        return [Answer("1", 1.0, tokens=5) for _ in questions[:-1]] + [
            None if budget_s else Answer("1", 1.0, tokens=5)
        ]

    def close(self):
        self.memory.free += 4e9
        self.memory.diary.append(f"close {self.name}")


def test_nothing_happens_before_the_first_question_and_a_look_is_shared():
    memory = Memory()
    models = Models(TASKS, memory)
    with models.frame() as frame:
        views = [frame.look("depth", PICTURES[:1]), frame.look("objects", PICTURES[:1])]
        assert memory.diary == []
        for view in views:
            view.ask(QUESTIONS)
            view.ask(QUESTIONS)
        assert memory.diary == ["load A", "look A 1"]
        frame.look("depth", PICTURES[1:]).ask(QUESTIONS)
        assert memory.diary[2:] == ["look A 1"]
    assert memory.diary[3:] == ["forget A", "forget A"]
    with models.frame() as frame:
        frame.look("depth", PICTURES[:1]).ask(QUESTIONS)
        assert memory.diary[5:] == ["look A 1"]


@pytest.mark.parametrize(("budget_gb", "device_gb"), [(0.0, 10.0), (10.0, 1000.0)])
def test_the_longest_unused_model_makes_room(budget_gb, device_gb):
    memory = Memory(device_gb)
    models = Models(TASKS, memory, budget_gb)
    with models.frame() as frame:
        views = {task: frame.look(task, PICTURES) for task in TASKS}
        for task in ("depth", "pose", "objects", "matching"):
            views[task].ask(QUESTIONS)
        assert memory.diary == [
            "load A",
            "look A 2",
            "load B",
            "look B 2",
            "forget B",
            "close B",
            "load C",
            "look C 2",
        ]
        views["pose"].ask(QUESTIONS)  # comes back, and looks again
        assert memory.diary[8:] == ["forget A", "close A", "load B", "look B 2"]
    assert {status.name for status in models.status() if status.loaded} == {"B", "C"}
    models.close()
    assert memory.free == device_gb * 1e9


def test_a_model_larger_than_the_budget_is_an_error():
    with (
        Models(TASKS, Memory(), 3.9).frame() as frame,
        pytest.raises(ModelError, match=r"4\.0 GB.*budget of 3\.9 GB"),
    ):
        frame.look("depth", PICTURES).ask(QUESTIONS)


def test_a_device_that_is_full_of_other_things_is_tried_anyway():
    memory = Memory(device_gb=1.0)
    with Models(TASKS, memory).frame() as frame:
        frame.look("depth", PICTURES).ask(QUESTIONS)
    assert memory.diary[0] == "load A"


def test_a_task_without_a_checkpoint_is_named():
    with Models({"depth": "A"}, Memory()).frame() as frame, pytest.raises(ModelError, match=r"'pose'.*depth"):
        frame.look("pose", PICTURES)


def test_a_load_that_fails_leaves_the_others(monkeypatch):
    memory = Memory()
    models = Models(TASKS, memory)
    with models.frame() as frame:
        frame.look("depth", PICTURES).ask(QUESTIONS)

        def fail(name):
            raise ModelError("damaged")

        monkeypatch.setattr(memory, "open", fail)
        with pytest.raises(ModelError, match="damaged"):
            frame.look("pose", PICTURES).ask(QUESTIONS)
        frame.look("depth", PICTURES).ask(QUESTIONS)
    a, b, _ = models.status()
    assert (a.loaded, b.loaded, b.memory_bytes) == (True, False, 0)


def test_an_error_in_a_frame_still_ends_its_looks():
    memory = Memory()
    models = Models(TASKS, memory)

    def frame():
        with models.frame() as frame:
            frame.look("depth", PICTURES).ask(QUESTIONS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        frame()
    assert memory.diary[-1] == "forget A"


def test_what_was_done_is_counted():
    models = Models(TASKS, Memory())
    with models.frame() as frame:
        frame.look("depth", PICTURES[:1]).ask(QUESTIONS)
        frame.look("objects", PICTURES[:1]).ask(QUESTIONS, budget_s=1.0)
    a, b, _ = models.status()
    assert a.tasks == ("depth", "objects")
    assert (a.loads, a.looks, a.questions, a.tokens, a.memory_bytes) == (1, 1, 3, 15, 4_000_000_000)
    assert (b.loaded, b.questions) == (False, 0)


def test_depth_and_object_questions_run_the_vision_tower_once(tmp_path):
    name = str(checkpoints.make(tmp_path / "joint"))
    models = Models({"depth": name, "objects": name}, LocalSource("cpu", "fp32"))
    about_depth = replace(QUESTIONS[0], max_tokens=4)
    about_objects = replace(objects.comparison("smaller", (0, 39, 652, 999), (6, 380, 228, 562)), max_tokens=4)
    runs = []
    with models.frame() as frame:
        frame.look("depth", PICTURES[1:]).ask([about_depth])  # loads the model
        visual = models._loaded[name].checkpoint.model.model.visual
        visual.register_forward_hook(lambda *_: runs.append(1))
        frame.look("depth", PICTURES[:1]).ask([about_depth])
        frame.look("objects", PICTURES[:1]).ask([about_objects])
    assert runs == [1]
    models.close()


class Failing(Memory):
    """Fails with what is in ``raises`` where ``at`` says, and counts what it is asked for."""

    def __init__(self, at, raises):
        super().__init__()
        self.at, self.raises, self.tried = at, raises, 0

    def fail(self, at):
        if at == self.at:
            self.tried += 1
            raise self.raises

    def image_scale(self, name):
        self.fail("scale")
        return 1.0

    def memory_bytes(self, name):
        self.fail("size")
        return 4_000_000_000

    def open(self, name):
        self.fail("open")
        model = super().open(name)
        ask, look = model.ask, model.look
        model.ask = lambda *questions: self.fail("ask") or ask(*questions)
        model.look = lambda pictures: self.fail("look") or look(pictures)
        return model


FAULTS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("math range error"),
    TypeError("'NoneType' object is not iterable"),
    StopIteration(),
]


@pytest.mark.parametrize("at", ["scale", "size", "open", "look", "ask"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_model_raises_is_a_model_error(at, fault):
    with Models(TASKS, Failing(at, fault)).frame() as frame:
        view = frame.look("depth", PICTURES)
        ask = partial(frame.image_scale, "depth") if at == "scale" else partial(view.ask, QUESTIONS)
        with pytest.raises(ModelError, match=f"A failed: {type(fault).__name__}"):
            ask()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_ends_it(stop):
    with Models(TASKS, Failing("ask", stop())).frame() as frame, pytest.raises(stop):
        frame.look("depth", PICTURES).ask(QUESTIONS)


@pytest.mark.parametrize(("fault", "said", "tries"), [(FAULTS[0], "start it again", 1), (FAULTS[1], "A failed", 3)])
def test_a_model_that_has_lost_its_device_is_not_asked_again(fault, said, tries):
    source = Failing("ask", fault)
    models = Models(TASKS, source)
    for _ in range(3):
        with (
            models.frame() as frame,
            pytest.raises(ModelError, match=r"A failed.*" if tries > 1 else "start it again"),
        ):
            frame.look("depth", PICTURES).ask(QUESTIONS)
    assert source.tried == tries


def test_loading_in_vain_is_not_tried_again_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vlm3_ros.vlm.models.time.monotonic", lambda: now[0])
    source = Failing("open", ModelError("no memory"))
    fail = source.fail
    source.fail = lambda at: now.__setitem__(0, now[0] + (10.0 if at == "open" else 0.0)) or fail(at)
    models = Models(TASKS, source)
    for wait, tried in ((0.0, 1), (50.0, 1), (20.0, 2)):
        now[0] += wait
        with models.frame() as frame, pytest.raises(ModelError, match="no memory"):
            frame.look("depth", PICTURES).ask(QUESTIONS)
        assert source.tried == tried
