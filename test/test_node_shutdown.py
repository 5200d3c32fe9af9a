"""How long the end takes, whatever the model does; `pytest -s test/test_node_shutdown.py` prints the times."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ros
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState
from live import Peer, image, info
from sensor_msgs.msg import CameraInfo, Image
from servers import Echo, serving

from vlm3_ros.config import one_checkpoint

WITHIN_S = 5.0  # `ros2 launch` gets rough after that
STOPS_30_S = ros.answered_by("doubles:slow:30")
_numbers = itertools.count()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer(f"/end_{next(_numbers)}")
    yield made
    made.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with serving(Echo()) as server:
        yield server
        server.trickles = False


def started(peer: Peer, answers: dict[str, str]) -> ros.Process:
    return ros.node({**answers, "node.tasks": ["depth"]}, "-r", f"__ns:={peer.name.rpartition('/')[0]}")


def until_asked(peer: Peer, asked: Callable[[], bool]) -> None:
    """Send frames until a model is at work on one."""
    peer.listen(Image, "depth/image")
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

    def send() -> None:
        infos.publish(info())
        images.publish(image(peer.next_stamp()))

    peer.until_sent(send, asked, "a frame in hand")
    time.sleep(0.5)


def end(peer: Peer, process: ros.Process, how: signal.Signals | None, what: str) -> None:
    """End the node by a signal, or deactivate it; say how long that took, and check that it was quiet and in time."""
    start = time.monotonic()
    if how is None:
        deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
        assert peer.call(ChangeState, "change_state", transition=deactivate).success
    else:
        assert process.interrupt(by=how) == 0, process.output
    took = time.monotonic() - start
    print(f"\n{what:40} {how.name if how else 'deactivate':10} {took:5.1f} s")
    assert took < WITHIN_S
    assert "Traceback" not in process.output
    if how is None:
        assert process.interrupt() == 0


ENDS = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, None], ids=["SIGINT", "SIGTERM", "deactivate"])


@pytest.mark.slow
@ENDS
def test_model_that_takes_30_s(peer, how):
    with started(peer, STOPS_30_S) as process:
        until_asked(peer, lambda: "loading" in process.output)
        end(peer, process, how, "a model that takes 30 s")


@pytest.mark.slow
@ENDS
def test_server_that_trickles_its_answers(peer, echo, how):
    with started(peer, one_checkpoint(echo.url)) as process:
        process.wait_for("perceiving")
        echo.trickles = True
        until_asked(peer, echo.trickling.is_set)
        end(peer, process, how, "a server that trickles its answers")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_server_that_trickles_when_the_node_is_configured(peer, echo, how):
    echo.trickles = True
    with started(peer, one_checkpoint(echo.url)) as process:
        assert echo.trickling.wait(30.0)
        peer.diagnosed("configuring", about="")  # the executor serves everybody meanwhile
        end(peer, process, how, "a server that trickles at configure")


def test_signal_while_the_node_is_deactivated(peer):
    with started(peer, STOPS_30_S) as process:
        until_asked(peer, lambda: "loading" in process.output)
        events = peer.listen(TransitionEvent, "vlm3/transition_event")
        peer.ask(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        peer.until(lambda: any(e.goal_state.label == "deactivating" for e in events), "the transition")
        end(peer, process, signal.SIGINT, "a model that takes 30 s, deactivating")


@pytest.mark.parametrize("program", ["vlm3_node", "sim_node"])
@pytest.mark.parametrize("library", ["_rclpy", "rmw_fastrtps"], ids=["importing", "starting ROS"])
def test_interrupted_twice_in_the_first_seconds(program, library):
    """Ctrl-C ends a process that has barely begun without a word."""
    with ros.Process(Path(sys.prefix, "lib", "vlm3_ros", program)) as process:
        process.wait_for_library(library)
        for _ in range(2):
            process.send(signal.SIGINT)
            time.sleep(0.05)
        assert process.wait(WITHIN_S) in (0, -signal.SIGINT)
        assert "Traceback" not in process.output
        assert "rror" not in process.output


def test_wrong_arguments_of_ros_are_said(tmp_path):
    file = tmp_path / "flat.yaml"
    file.write_text("/**:\n  depth:\n    points: 3\n")
    with ros.node({}, "--params-file", str(file)) as process:
        assert process.wait(30.0) == 2
        assert str(file) in process.output
        assert "Traceback" not in process.output
