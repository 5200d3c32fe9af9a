"""The service ~/ask: a question about the newest frame, while the node goes on."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from live import FRAME, Live, image, info, live, picture, stamp
from sensor_msgs.msg import CameraInfo, Image
from vlm3_ros.srv import Ask

from vlm3_ros.ros.ask import MOST_WAITING
from vlm3_ros.vlm import ModelError

QUIET = {"pose.publish_tf": False}  # no frame is perceived unless somebody subscribes


def show(running: Live, camera: str = "", frame_id: str = FRAME, level: int = 100) -> int:
    """Let the node have one more frame, and return its stamp."""
    peer, prefix = running.peer, f"{camera}/" if camera else ""
    images, infos = peer.connected(Image, f"{prefix}image"), peer.connected(CameraInfo, f"{prefix}camera_info")
    before, number = running.received(camera), peer.next_stamp()

    def send() -> None:
        infos.publish(info(frame_id=frame_id))
        images.publish(image(number, picture(level), frame_id=frame_id))

    peer.until_sent(send, lambda: running.received(camera) > before, "the frame at the node")
    peer.until(lambda: not running.node._streams[camera].lacks_calibration, "its camera_info")
    return number


def ask(running: Live, question: str = "what?", **fields: Any) -> Ask.Response:
    return running.peer.call(Ask, "ask", question=question, **fields)


def test_answer_is_about_the_newest_frame():
    with live(QUIET) as running:
        show(running)
        newest = show(running)
        answer = ask(running, "How far is the wall?")
        assert answer.success
        assert (answer.answer, answer.confidence, answer.message) == ("How far is the wall?", 0.5, "")
        assert (stamp(answer), answer.header.frame_id) == (newest, FRAME)


def test_regions_are_told_as_reference_numbers():
    with live(QUIET) as running:
        show(running)
        corners = [0.0, 0.0, 31.5, 23.5, 16.0, 12.0, 48.0, 36.0]  # of a picture of 64 × 48
        answer = ask(running, "Is <region 2> behind <region 1>?", regions=corners)
        assert answer.success, answer.message
        told = [[int(n) for n in region.split(", ")] for region in re.findall(r"region \((.+?)\)", answer.answer)]
        half_a_pixel = 1000 / 48 / 2
        np.testing.assert_allclose(told, [[250, 250, 750, 750], [0, 0, 500, 500]], atol=half_a_pixel)
        assert answer.answer.startswith("Is bounding box region (")
        assert "<region" not in answer.answer


def test_camera_is_chosen_by_name():
    with live({**QUIET, "node.cameras": ["left", "right"]}) as running:
        for name in ("left", "right"):
            show(running, name, f"{name}_optical")
        assert ask(running).header.frame_id == "left_optical"
        assert ask(running, camera="right").header.frame_id == "right_optical"
        refused = ask(running, camera="rear")
        assert not refused.success
        assert "'rear'" in refused.message
        assert "left" in refused.message


def test_before_the_first_image():
    with live(QUIET) as running:
        refused = ask(running)
        assert not refused.success
        assert f"no image has come on {running.namespace}/image" in refused.message


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"regions": [1.0, 2.0, 3.0]}, "3 numbers"),
        ({"regions": [1.0, 2.0, float("nan"), 4.0]}, "region 1"),
        ({"regions": [0.0, 0.0, 9.0, 9.0, 5.0, 5.0, 4.0, 9.0]}, "region 2"),
        ({"question": "Where is <region 1>?"}, "0 regions"),
        ({"question": "Where is <region 3>?", "regions": [0.0, 0.0, 9.0, 9.0]}, "1 regions"),
        ({"question": " "}, "question is empty"),
    ],
    ids=str,
)
def test_question_that_makes_no_sense(asked, request_, why):
    refused = ask(asked, **request_)
    assert not refused.success
    assert why in refused.message
    assert ask(asked).success


@pytest.fixture(scope="module")
def asked():
    with live(QUIET) as running:
        show(running)
        yield running


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, float("nan"), float("inf"), 1e30, 60.0])
def test_odd_timeouts(asked, timeout_s):
    assert ask(asked, timeout_s=timeout_s).success


def test_timeout_that_cannot_be_met(asked):
    asked.wall.gate.clear()
    answer = ask(asked, timeout_s=1e-9)
    asked.wall.gate.set()
    assert (answer.success, "no answer within 1e-09 s" in answer.message) == (False, True)


def test_model_error_is_told_to_who_asked(asked):
    asked.wall.raises.append(ModelError("the server is gone"))
    refused = ask(asked)
    assert (refused.success, refused.message) == (False, "the server is gone")
    assert ask(asked).success


def test_executor_serves_others_while_the_model_thinks():
    with live(QUIET) as running:
        peer, wall = running.peer, running.wall
        show(running)
        wall.gate.clear()
        waiting = [peer.ask(Ask, "ask", question=str(i)) for i in range(3)]
        peer.until(lambda: wall.in_hand, "the first question in hand")
        for _ in range(5):
            assert peer.call(GetState, "get_state").current_state.label == "active"
        number = len(peer.heard["/diagnostics"])
        peer.until(lambda: len(peer.heard["/diagnostics"]) > number, "diagnostics in the meantime")
        assert not any(future.done() for future in waiting)
        wall.gate.set()
        assert [peer.result(future).answer for future in waiting] == ["0", "1", "2"]


def test_timeout_while_a_frame_is_in_hand():
    with live() as running:
        peer, wall = running.peer, running.wall
        depth = peer.listen(Image, "depth/image")
        peer.until(lambda: running.node._perceiver.outputs[""].subscribed("depth/image"), "the subscription")
        wall.gate.clear()
        show(running)
        peer.until(lambda: wall.in_hand, "the frame in hand")
        late = ask(running, "too late", timeout_s=0.3)
        assert not late.success
        assert "no answer within 0.3 s" in late.message
        wall.gate.set()
        assert ask(running, "in time").success
        assert "too late" not in wall.questions  # nobody waits for it any more
        peer.until(lambda: depth, "the frame's depth image")


def test_inactive_node_says_so():
    with live(activate=False) as running:
        refused = ask(running)
        assert (refused.success, refused.message) == (False, "the node is not active")


def test_waiting_questions_are_refused_at_deactivation():
    with live(QUIET) as running:
        peer, wall = running.peer, running.wall
        show(running)
        wall.gate.clear()
        waiting = [peer.ask(Ask, "ask", question=str(i)) for i in range(2)]
        peer.until(lambda: wall.in_hand and len(running.node._worker._jobs) == 1, "one in hand and one in line")
        inactive = peer.ask(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        answers = [peer.result(future) for future in waiting]
        assert not any(answer.success for answer in answers)
        assert {answer.message for answer in answers} == {
            "the node was deactivated before this question was answered"
        }
        assert peer.result(inactive).success
        assert not ask(running).success
        peer.until(lambda: peer.count("questions refused", about="") == 3, "three refusals counted")


def test_many_questions_at_once():
    """As many as may wait are answered, and the others are refused with a reason."""
    with live(QUIET) as running:
        peer, wall = running.peer, running.wall
        show(running)
        wall.gate.clear()
        clients = [peer.node.create_client(Ask, f"{peer.name}/ask") for _ in range(MOST_WAITING + 16)]
        peer.until(lambda: all(client.service_is_ready() for client in clients), "the service for all")
        waiting = [client.call_async(Ask.Request(question=str(i))) for i, client in enumerate(clients)]
        peer.until(lambda: sum(future.done() for future in waiting) == 16, "the refusals")
        wall.gate.set()
        answers = [peer.result(future) for future in waiting]
        assert sum(answer.success for answer in answers) == MOST_WAITING
        assert all(a.answer == str(i) if a.success else "ask again later" in a.message for i, a in enumerate(answers))
        counts = {"questions answered": MOST_WAITING, "questions refused": 16}
        peer.until(lambda: {key: peer.count(key, about="") for key in counts} == counts, "both counted")


@pytest.mark.parametrize("slowness", [1.0, 5.0], ids=["as long as a frame", "five times as long"])
def test_clients_that_ask_without_pause_cost_half_the_frames(slowness):
    """Two of them, and images that never lack: questions take half the time, however long one takes."""
    with live() as running:
        peer, wall = running.peer, running.wall
        depth = peer.listen(Image, "depth/image")
        peer.hears("depth/image")
        show(running)
        clients = [peer.node.create_client(Ask, f"{peer.name}/ask") for _ in range(2)]
        peer.until(lambda: all(client.service_is_ready() for client in clients), "the service")
        images = peer.connected(Image, "image")
        wall.seconds, wall.slowness = 0.06, {"again?": slowness}

        def frames(seconds: float, ask: bool) -> tuple[int, int]:
            """Frames perceived and questions answered in that time."""
            waiting = [client.call_async(Ask.Request(question="again?")) for client in clients] if ask else []
            depth.clear()
            answered, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                images.publish(image(peer.next_stamp()))
                peer.spin(0.01)
                for i, future in enumerate(waiting):
                    if future.done():
                        assert future.result().success
                        answered += 1
                        waiting[i] = clients[i].call_async(Ask.Request(question="again?"))
            return len(depth), answered

        alone, _ = frames(2.0, ask=False)
        beside, answered = frames(4.0, ask=True)
        print(f"frames a second alone {alone / 2.0:.1f}, beside {answered / 4.0:.1f} questions {beside / 4.0:.1f}")
        assert answered >= 3
        assert beside / 4.0 > 0.4 * alone / 2.0  # half, and what a busy machine adds
