"""The engine against the slow reference: the same tokens, the same probabilities, one look."""

import weakref
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import TINY, WIDE

from vlm3_ros.tasks import depth, grounding, matching, pose
from vlm3_ros.vlm import Cancel, Cancelled, ModelError, Picture, engine
from vlm3_ros.vlm.chunks import Chunks, question_bytes
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.keyvalues import Prefix
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.loading import Checkpoint, load
from vlm3_ros.vlm.reference import Reference

RNG = np.random.default_rng(0)
PICTURES = [
    Picture(RNG.integers(0, 255, (120, 160, 3), dtype=np.uint8), (160, 128)),
    Picture(RNG.integers(0, 255, (128, 128, 3), dtype=np.uint8), (96, 192)),
]


def depth_questions(count, max_tokens=24):
    """Pixels whose references have one to four digits."""
    references = RNG.integers(0, 10.0 ** RNG.integers(1, 4, (count, 2)) * 2)
    return [replace(q, max_tokens=max_tokens) for q in depth.questions(references)]


def matching_questions(count):
    references = RNG.integers(0, 10.0 ** RNG.integers(1, 4, (count, 2)))
    return [replace(q, max_tokens=16) for q in matching.questions(references)]


ASKED = {
    "depth": (depth_questions(40), 1),
    "matching": (matching_questions(26), 2),
    "pose": ([replace(q, max_tokens=24) for q in pose.QUESTIONS], 2),
}


@pytest.fixture
def rows(monkeypatch):
    """All rows decoded in this test, in order."""
    decoded = []
    decode = engine.decode

    def spy(language, own, chunk, *others):
        decode(language, own, chunk, *others)
        decoded.extend(chunk)

    monkeypatch.setattr(engine, "decode", spy)
    return decoded


def ask(vlm, pictures, questions):
    with vlm.look(pictures) as view:
        return view.ask(questions)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A checkpoint that answers depth questions in the protocol's form, with numbers of its own choice."""
    folder = checkpoints.make(tmp_path_factory.mktemp("planted"), replace(WIDE, hidden=256, layers=2, deepstack=(0,)))
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 2000, (80, 2))
    dialogues = [(q.text, depth.answer(checkpoints.easy_metres(rng))) for q in depth.questions(pixels)]
    checkpoints.plant(folder, dialogues, PICTURES[0])
    return load(str(folder), "cpu")


# ------------------------------------------------------------------------------------------ equal to the reference


@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize(("size", "seed"), [(TINY, 0), (WIDE, 1), (replace(TINY, kv_heads=4, layers=5), 2)])
def test_tokens_are_those_of_generate_one_by_one(size, seed, task, rows):
    checkpoint = checkpoints.loaded(size, seed)
    questions, pictures = ASKED[task]
    answers = ask(Engine(checkpoint), PICTURES[:pictures], questions)
    with Reference(checkpoint).look(PICTURES[:pictures]) as view:
        for row, answer, question in zip(rows, answers, questions, strict=True):
            tokens, logits = view.generate(question)
            assert row.tokens == tokens
            assert (answer.text, answer.tokens) == (checkpoint.text(tokens), len(tokens))
            assert answer.is_cut is (tokens[-1] not in checkpoint.end_tokens)
            logs = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
            assert row.logs == pytest.approx(logs.tolist(), abs=1e-5)


def recorded(monkeypatch):
    """The logits of every pass of an engine."""
    passes = []
    pieces = LanguageModel._pieces

    def record(self, hidden):
        parts = list(pieces(self, hidden))
        passes.append(torch.cat([logits for _, logits in parts], dim=1))
        return iter(parts)

    monkeypatch.setattr(LanguageModel, "_pieces", record)
    return passes


def test_logits_of_all_steps_are_within_1e_5(monkeypatch):
    checkpoint = checkpoints.loaded(WIDE, 1)
    questions = depth_questions(8, max_tokens=12)
    vlm = Engine(checkpoint, templates=False, distributions=False)
    passes = recorded(monkeypatch)
    ask(vlm, PICTURES[:1], questions)
    steps = torch.stack(passes[:12], dim=1)  # [questions, steps, vocabulary]
    with Reference(checkpoint).look(PICTURES[:1]) as view:
        for got, question in zip(steps, questions, strict=True):
            torch.testing.assert_close(got, view.generate(question)[1], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("nf4", 0.02)])
def test_first_logits_in_low_precision_are_within_rounding(precision, tolerance, monkeypatch):
    """The standard deviation of these logits is 0.16; bfloat16 rounds to 8 bits, once or more a layer."""
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    checkpoint = checkpoints.loaded(TINY, 0, precision)
    questions = depth_questions(8, max_tokens=2)
    vlm = Engine(checkpoint, templates=False, distributions=False)
    passes = recorded(monkeypatch)
    ask(vlm, PICTURES[:1], questions)
    with Reference(checkpoint).look(PICTURES[:1]) as view:
        for got, question in zip(passes[0], questions, strict=True):
            torch.testing.assert_close(got, view.generate(question)[1][0].float(), rtol=0.0, atol=tolerance)


@pytest.mark.slow
def test_the_whole_vocabulary_and_the_full_tokenizer(tmp_path):
    folder = checkpoints.make(tmp_path, TINY, 3, checkpoints.qwen3_tokenizer(), vocabulary=151936)
    checkpoint = load(str(folder), "cpu")
    questions = depth_questions(6, max_tokens=12)
    expected = ask(Reference(checkpoint), PICTURES[:1], questions)
    for answer, reference in zip(ask(Engine(checkpoint), PICTURES[:1], questions), expected, strict=True):
        assert answer.text == reference.text
        assert answer.probability == pytest.approx(reference.probability, rel=1e-4)


# ------------------------------------------------------------------------------------------------ fixed text


def test_forced_text_and_free_text_are_the_same(planted, rows):
    questions = depth_questions(40, max_tokens=64)
    free = ask(Engine(planted, templates=False, distributions=False), PICTURES[:1], questions)
    vlm = Engine(planted)
    forced = ask(vlm, PICTURES[:1], questions)
    reference = ask(Reference(planted), PICTURES[:1], questions[:12])
    assert [a.text for a in forced] == [a.text for a in free]
    assert [a.text for a in reference] == [a.text for a in free[:12]]
    for a, b in zip(forced, free, strict=True):
        assert a.probability == pytest.approx(b.probability, rel=1e-3)
    template = vlm.kind(depth.GRAMMAR).learner.template
    assert len(template.parts) > 15  # "<think> The point is around … </answer>"
    held = [row for row in rows[48:80] if not row.failed]  # the learning chunk of 8 comes first
    assert len(held) > 16
    numbers = [answer for answer in forced if answer.numbers]
    assert len(numbers) > 16
    assert all(0.0 < d.mass <= 1.0 + 1e-6 for answer in numbers for d in answer.numbers)


def test_templates_save_passes(planted, rows):
    questions = depth_questions(40, max_tokens=64)
    ask(Engine(planted, distributions=False), PICTURES[:1], questions)
    held = [q for q, row in zip(questions[8:], rows[8:], strict=True) if not row.failed]
    assert len(held) >= 8  # which others leave the template, and where, is up to rounding

    def passes(**options):
        """Of each question by itself: one that leaves the template, by rounding, costs no other."""
        vlm = Engine(planted, distributions=False, **options)
        counts = []
        with vlm.look(PICTURES[:1]) as view:
            view.ask(questions[:8])
            greedy = vlm.language.greedy

            def counted(hidden):
                counts[-1] += 1
                return greedy(hidden)

            vlm.language.greedy = counted
            for question in held[:8]:
                counts.append(0)
                view.ask([question])
        return np.median(counts)

    assert passes() < 0.75 * passes(templates=False)


def test_all_kinds_of_questions_in_one_call():
    checkpoint = checkpoints.loaded(TINY, 0)
    questions = [*depth_questions(3), replace(grounding.question("chair"), max_tokens=20), *depth_questions(2)]
    expected = ask(Reference(checkpoint), PICTURES[:1], questions)
    got = ask(Engine(checkpoint), PICTURES[:1], questions)
    assert [a.text for a in got] == [a.text for a in expected]
    assert ask(Engine(checkpoint), PICTURES[:1], []) == []


def test_the_same_question_twice():
    vlm = Engine(checkpoints.loaded(TINY, 0))
    (question,) = depth_questions(1)
    first, second = ask(vlm, PICTURES[:1], [question, question])
    (alone,) = ask(vlm, PICTURES[:1], [question])
    assert first.text == second.text == alone.text


# ------------------------------------------------------------------------------------------------- looks and state


def test_two_looks_may_be_open_at_once():
    checkpoint = checkpoints.loaded(TINY, 0)
    vlm = Engine(checkpoint)
    questions = depth_questions(6)
    alone = [ask(vlm, [picture], questions) for picture in PICTURES]
    assert alone[0][0].text != alone[1][0].text
    with ExitStack() as stack:
        views = [stack.enter_context(vlm.look([picture])) for picture in PICTURES]
        both = [[view.ask(questions[i : i + 2]) for view in views] for i in (0, 2, 4)]
    for i in (0, 1):
        together = [answer for part in both for answer in part[i]]
        assert [a.text for a in together] == [a.text for a in alone[i]]


def test_state_in_the_model_is_neither_used_nor_left():
    checkpoint = checkpoints.loaded(TINY, 0)
    vlm = Engine(checkpoint)
    questions = depth_questions(3)
    before = ask(vlm, PICTURES[:1], questions)
    checkpoint.model.model.rope_deltas = torch.tensor([[12345]])  # what transformers keeps between calls
    assert [a.text for a in ask(vlm, PICTURES[:1], questions)] == [a.text for a in before]
    assert checkpoint.model.model.rope_deltas.item() == 12345
    checkpoint.model.model.rope_deltas = None


def test_a_look_costs_the_vision_tower_once():
    checkpoint = checkpoints.loaded(TINY, 0)
    vlm, runs = Engine(checkpoint), []
    handle = checkpoint.model.model.visual.register_forward_hook(lambda *_: runs.append(1))
    with vlm.look(PICTURES[:1]) as view:
        view.ask(depth_questions(9))
        view.ask(depth_questions(3))
        view.ask([replace(grounding.question("chair"), max_tokens=4)])
    handle.remove()
    assert len(runs) == 1


@pytest.mark.parametrize("kind", [Engine, Reference])
def test_a_closed_model_gives_its_memory_back(tmp_path, kind):
    vlm = kind(load(str(checkpoints.make(tmp_path)), "cpu"))
    ask(vlm, PICTURES[:1], depth_questions(2, max_tokens=3))
    model = weakref.ref(vlm.checkpoint.model)
    vlm.close()
    assert model() is None


def test_a_look_that_ended_cannot_be_asked():
    with Engine(checkpoints.loaded(TINY, 0)).look(PICTURES[:1]) as view:
        pass
    with pytest.raises(ModelError, match="look has ended"):
        view.ask(depth_questions(1))


def test_cancel_ends_it_between_two_passes(monkeypatch):
    """Set from within the second pass, of any number that the answers would take."""
    cancel = Cancel()
    vlm, passes = Engine(checkpoints.loaded(TINY, 0), chunk=4, cancel=cancel), []
    greedy = vlm.language.greedy

    def counted(states):
        passes.append(1)
        if len(passes) == 2:
            cancel.set()
        return greedy(states)

    monkeypatch.setattr(vlm.language, "greedy", counted)
    with vlm.look(PICTURES[:1]) as view:
        with pytest.raises(Cancelled):
            view.ask(depth_questions(40))
        assert len(passes) <= 3
        with pytest.raises(Cancelled):
            view.ask(depth_questions(1))
        cancel.clear()
        assert None not in view.ask(depth_questions(2))
    assert len(passes) > 3


# ------------------------------------------------------------------------------------------------- memory and time


def test_the_prefix_is_shared_and_chunks_are_bounded(monkeypatch):
    vlm = Engine(checkpoints.loaded(TINY, 0), chunk=16)
    made = []
    own_tokens = engine.OwnTokens

    def spy(*size):
        made.append(own_tokens(*size))
        return made[-1]

    monkeypatch.setattr(engine, "OwnTokens", spy)
    with vlm.look(PICTURES[:1]) as view:
        view.ask(depth_questions(50, max_tokens=4))
    assert [own.keys[0].shape[0] for own in made] == [8, 14, 14, 14]  # 8 to learn from, the rest evenly
    assert len({id(own._prefix.keys[0]) for own in made}) == 1  # one prefix, not one a question


def test_room_is_for_what_answers_take_and_not_for_what_they_may(monkeypatch):
    vlm = Engine(checkpoints.loaded(TINY, 0))
    short = depth_questions(6, max_tokens=4)
    kind = vlm.kind(short[0].grammar)
    with vlm.look(PICTURES[:1]) as view:
        view.ask(short)
        assert kind.room <= 32
        assert all(answer.is_cut for answer in view.ask(depth_questions(1, max_tokens=200)))  # it has no end
        assert kind.room >= 199  # what comes behind the last token is not asked
        for _ in range(10):
            view.ask(short)
        assert kind.room <= 32


@pytest.mark.parametrize("chunk", [1, 3])
def test_answers_do_not_depend_on_the_chunk(chunk):
    checkpoint = checkpoints.loaded(WIDE, 1)
    questions = depth_questions(10)
    expected = ask(Engine(checkpoint), PICTURES[:1], questions)
    got = ask(Engine(checkpoint, chunk=chunk), PICTURES[:1], questions)
    assert [a.text for a in got] == [a.text for a in expected]


def test_out_of_memory_halves_the_chunk_and_goes_on(monkeypatch):
    checkpoint = checkpoints.loaded(TINY, 0)
    questions = depth_questions(20)
    expected = ask(Engine(checkpoint), PICTURES[:1], questions)
    decode, sizes = engine.decode, []

    def small_memory(language, own, rows, template, *others):
        sizes.append(len(rows))
        decode(language, own, rows, template, *others)
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "decode", small_memory)
    vlm = Engine(checkpoint)
    assert [a.text for a in ask(vlm, PICTURES[:1], questions)] == [a.text for a in expected]
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2
    sizes.clear()
    ask(vlm, PICTURES[:1], questions[:4])
    assert sizes == [2, 2]  # it does not try again what failed before


def test_out_of_memory_with_one_question_is_an_error(monkeypatch):
    def no_memory(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(engine, "decode", no_memory)
    with pytest.raises(ModelError, match=r"single question.*nf4"):
        ask(Engine(checkpoints.loaded(TINY, 0)), PICTURES[:1], depth_questions(4))


def test_after_many_chunks_that_fit_more_are_tried_and_ever_more_rarely():
    chunks = Chunks(LanguageModel(checkpoints.loaded(TINY, 0).model), 64)
    memory, waits, since = 20, [], 0
    for _ in range(2000):
        size = chunks.size(432, 100)
        if size > memory:
            waits.append(since)
            chunks.shrink(size)
            since = 0
        else:
            chunks.fitted(size)
            since += 1
    assert waits[:2] == [0, 0]  # 62, 31
    assert all(later >= earlier > 0 for earlier, later in pairwise(waits[2:]))
    assert len(waits) < 8
    for _ in range(10 * 4096):  # what took the memory is gone
        chunks.fitted(chunks.size(432, 100))
    assert chunks.size(64, 100) == 64


def test_chunks_follow_free_memory(monkeypatch):
    language = LanguageModel(checkpoints.loaded(TINY, 0).model)
    one = question_bytes(language, 100)
    for free, expected in ((0.5 * one, 1), (one * 10 / 0.6 + 1, 10), (one * 1e6, 50)):
        monkeypatch.setattr("vlm3_ros.vlm.chunks.free_bytes", lambda device, free=free: int(free))
        assert Chunks(language).size(50, 100) == expected


class Clock:
    """Seconds that pass only while questions are answered."""

    def __init__(self, monkeypatch, seconds_each):
        self.now = 0.0
        decode = engine.decode

        def timed(language, own, rows, template, *others):
            decode(language, own, rows, template, *others)
            self.now += seconds_each * len(rows)

        monkeypatch.setattr(engine, "decode", timed)
        monkeypatch.setattr(engine.time, "monotonic", lambda: self.now)


def test_a_budget_leaves_the_last_questions_unasked(monkeypatch):
    checkpoint = checkpoints.loaded(TINY, 0)
    questions = depth_questions(40, max_tokens=4)
    expected = ask(Engine(checkpoint), PICTURES[:1], questions)
    clock = Clock(monkeypatch, seconds_each=0.5)
    with Engine(checkpoint).look(PICTURES[:1]) as view:
        answers = view.ask(questions, budget_s=10.0)
        assert clock.now == 10.0
        assert [a and a.text for a in answers] == [a.text for a in expected[:20]] + [None] * 20
        assert view.ask(questions, budget_s=0.0) == [None] * 40
        assert [a is None for a in view.ask(questions, budget_s=0.1)] == [False] + [True] * 39
        assert None not in view.ask(questions, budget_s=20.1)


@pytest.mark.parametrize("part", ["pixels", "extended"])
def test_out_of_memory_where_smaller_chunks_do_not_help(monkeypatch, part):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    owner = {"pixels": Checkpoint, "extended": Prefix}[part]
    monkeypatch.setattr(owner, part, no_memory)
    with pytest.raises(ModelError, match=r"out of memory .*camera\.max_tokens"):
        ask(Engine(checkpoints.loaded(TINY, 0)), PICTURES[:1], depth_questions(4))
