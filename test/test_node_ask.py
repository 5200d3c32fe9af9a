"""The service ~/ask: a question about the newest frame, while the node goes on."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from live import FRAME, Live, image, info, live, picture, stamp
from sensor_msgs.msg import CameraInfo, Image
from vlm3_ros.srv import Ask

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


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9, float("nan"), float("inf"), 1e30, 60.0])
def test_odd_timeouts(asked, timeout_s):
    answer = ask(asked, timeout_s=timeout_s)
    assert answer.success or "no answer within 1e-09 s" in answer.message


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


def test_waiting_questions_are_answered_before_deactivation():
    with live(QUIET) as running:
        peer, wall = running.peer, running.wall
        show(running)
        wall.gate.clear()
        waiting = [peer.ask(Ask, "ask", question=str(i)) for i in range(2)]
        peer.until(lambda: wall.in_hand and len(running.node._worker._jobs) == 1, "one in hand and one in line")
        inactive = peer.ask(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        peer.until(lambda: running.node._worker._stopping, "the transition")
        wall.gate.set()
        assert peer.result(inactive).success
        assert all(peer.result(future).success for future in waiting)
        assert not ask(running).success
