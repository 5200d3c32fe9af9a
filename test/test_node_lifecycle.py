"""The node's life: standard lifecycle services, faults that keep it unconfigured, and its end."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import ros
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from live import Peer, image, info, live, stamp
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
UNCONFIGURED, INACTIVE = State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE
ACTIVE, FINALIZED = State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_FINALIZED


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random checkpoint."""
    import checkpoints  # imports torch, which takes seconds

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    checkpoints.make(folder)
    return folder


def change(peer: Peer, transition: int) -> bool:
    """Ask for a transition; whether it succeeded."""
    return peer.call(ChangeState, "change_state", transition=Transition(id=transition)).success


def state(peer: Peer) -> int:
    return peer.call(GetState, "get_state").current_state.id


def frame_sender(peer: Peer, sent: list[int] | None = None):
    """A function that sends a good frame, once the node listens."""
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

    def send() -> None:
        number = peer.next_stamp()
        if sent is not None:
            sent.append(number)
        infos.publish(info())
        images.publish(image(number))

    return send


def test_through_all_states_twice():
    with live(activate=False) as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        peer.diagnosed("unconfigured", about="", level=DiagnosticStatus.OK)
        for _ in range(2):
            assert state(peer) == UNCONFIGURED
            assert peer.node.count_publishers("depth/image") == 0
            assert change(peer, CONFIGURE)
            peer.until(lambda: peer.node.count_publishers("depth/image"), "outputs")
            assert (state(peer), peer.node.count_subscribers("image")) == (INACTIVE, 0)
            assert change(peer, ACTIVATE)
            assert state(peer) == ACTIVE
            depth.clear()
            peer.until_sent(frame_sender(peer), lambda: depth, "depth image")
            assert change(peer, DEACTIVATE)
            peer.until(lambda: peer.node.count_subscribers("image") == 0, "the end of the input")
            assert change(peer, ACTIVATE)
            depth.clear()
            peer.until_sent(frame_sender(peer), lambda: depth, "depth image after reactivation")
            assert change(peer, DEACTIVATE)
            assert change(peer, CLEANUP)
            peer.until(lambda: peer.node.count_publishers("depth/image") == 0, "the end of the outputs")
        peer.diagnosed("unconfigured", about="", level=DiagnosticStatus.OK)
        assert f"unloading test:doubles:shared:{running.namespace}" in peer.log()


def test_wrong_transition_is_refused():
    with live(activate=False) as running:
        for transition in (ACTIVATE, DEACTIVATE, CLEANUP, 250):
            assert not change(running.peer, transition)
            assert state(running.peer) == UNCONFIGURED
        assert change(running.peer, CONFIGURE)


def test_deactivate_leaves_a_busy_model_behind(monkeypatch):
    """The transition ends though the model does not; its frame is dropped, and frames wait for its end after that."""
    monkeypatch.setattr("vlm3_ros.ros.lifecycle.STOP_S", 1.0)
    with live() as running:
        peer, wall = running.peer, running.wall
        depth = peer.listen(Image, "depth/image")
        sent: list[int] = []
        send = frame_sender(peer, sent)
        wall.gate.clear()
        peer.until_sent(send, lambda: wall.in_hand, "a frame in hand")
        events = peer.listen(TransitionEvent, "vlm3/transition_event")
        inactive = peer.ask(ChangeState, "change_state", transition=Transition(id=DEACTIVATE))
        peer.until(lambda: any(e.goal_state.label == "deactivating" for e in events), "the transition")
        assert peer.call(GetState, "get_state").current_state.label == "deactivating"
        assert not inactive.done()
        assert peer.result(inactive).success
        assert state(peer) == INACTIVE
        peer.logged("did not stop within 1 s", "dropped")
        assert change(peer, ACTIVATE)
        looks = wall.in_hand
        send()
        peer.diagnosed("still busy", about="", level=DiagnosticStatus.WARN)
        assert change(peer, DEACTIVATE)
        assert change(peer, ACTIVATE)
        sent.clear()
        send()
        peer.spin(0.2)
        assert wall.in_hand == looks  # nobody asks a model that is busy
        wall.gate.set()
        peer.until_sent(send, lambda: depth, "a depth image")
        assert {stamp(d) for d in depth} <= set(sent)
        peer.until(lambda: peer.count("frames cancelled", about="") == 1, "the cancelled frame counted")
        peer.diagnosed("active", about="", level=DiagnosticStatus.OK)


def test_executor_is_alive_while_the_node_is_deactivated():
    with live() as running:
        peer, wall = running.peer, running.wall
        peer.listen(Image, "depth/image")
        send = frame_sender(peer)
        wall.gate.clear()
        peer.until_sent(send, lambda: wall.in_hand, "a frame in hand")
        inactive = peer.ask(ChangeState, "change_state", transition=Transition(id=DEACTIVATE))
        reports, answers, start = len(peer.heard["/diagnostics"]), 0, time.monotonic()
        while not inactive.done():
            value = peer.call(GetParameters, "get_parameters", names=["depth.points"]).values[0]
            answers += value.integer_value == 12
            assert peer.call(GetState, "get_state").current_state.label in ("active", "deactivating", "inactive")
        took, reports = time.monotonic() - start, len(peer.heard["/diagnostics"]) - reports
        print(f"deactivated in {took:.1f} s: {answers} answers about parameters, {reports} diagnostics")
        assert peer.result(inactive).success
        assert answers > 10
        assert reports >= 2


def test_shutdown_transition_ends_in_finalized():
    with live() as running:
        assert change(running.peer, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state(running.peer) == FINALIZED
        running.peer.diagnosed("finalized", about="")


def test_shutdown_transition_leaves_a_busy_model_which_is_given_back_later(monkeypatch):
    monkeypatch.setattr("vlm3_ros.ros.lifecycle.STOP_S", 0.5)
    with live() as running:
        peer, wall = running.peer, running.wall
        peer.listen(Image, "depth/image")
        send = frame_sender(peer)
        wall.gate.clear()
        peer.until_sent(send, lambda: wall.in_hand, "a frame in hand")
        assert change(peer, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        peer.until(lambda: peer.node.count_publishers("depth/image") == 0, "the end of the outputs")
        assert state(peer) == FINALIZED
        assert not any("unloading" in line for line in peer.log())
        wall.gate.set()
        peer.logged("unloading")


def test_fault_of_the_code_costs_its_task(monkeypatch):
    """No ModelError, no matter: depth comes, objects are said and counted as failed."""
    monkeypatch.setattr("vlm3_ros.perception.pipeline.perceive_objects", lambda *_: 1 / 0)
    with live({"node.tasks": ["depth", "objects"]}) as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        peer.listen(Detection3DArray, "objects")
        peer.until(lambda: running.node._perceiver.outputs[""].tasks() == {"depth", "objects"}, "both subscriptions")
        peer.until_sent(frame_sender(peer), lambda: depth, "depth image")
        peer.logged("objects failed: ZeroDivisionError: division by zero")
        peer.until(lambda: peer.status("camera") and "failed objects" in str(peer.status("camera")), "the count")
        assert peer.count("frames perceived") >= 1


def test_only_the_tasks_of_the_node_are_advertised():
    with live({"node.tasks": ["depth"]}) as running:
        topics = {name for name, _ in running.node.get_publisher_names_and_types_by_node("vlm3", running.namespace)}
        ours = {name.removeprefix(f"{running.namespace}/") for name in topics}
        assert {"depth/image", "points"} <= ours
        assert not ours & {"matches", "objects", "objects/markers", "camera_pose"}


def test_transition_that_raises_is_said(monkeypatch):
    """rclpy swallows the exception; the node says it, goes back to unconfigured, and may try again."""
    with live(activate=False) as running:
        peer = running.peer
        with monkeypatch.context() as broken:
            broken.setattr("vlm3_ros.ros.perceiver.Outputs", None)
            assert not change(peer, CONFIGURE)
        peer.logged("on_configure failed", "Traceback", "TypeError")
        peer.diagnosed("on_configure failed: 'NoneType'", about="", level=DiagnosticStatus.ERROR)
        assert state(peer) == UNCONFIGURED
        assert change(peer, CONFIGURE)
        peer.diagnosed("inactive", about="", level=DiagnosticStatus.OK)


# ---------------------------------------------------------------------------- what cannot be configured


def test_missing_checkpoint_folder(tmp_path: Path, checkpoint: Path):
    folder = tmp_path / "models" / "depth"
    with live({"vlm.checkpoint.depth": str(folder)}, activate=False) as running:
        peer = running.peer
        assert not change(peer, CONFIGURE)
        peer.logged("not configured", str(folder))
        peer.diagnosed(str(folder), about="", level=DiagnosticStatus.ERROR)
        assert state(peer) == UNCONFIGURED
        shutil.copytree(checkpoint, folder)
        assert change(peer, CONFIGURE)
        assert state(peer) == INACTIVE
        peer.diagnosed("inactive", about="", level=DiagnosticStatus.OK)


def test_checkpoint_of_another_architecture(tmp_path: Path, checkpoint: Path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with live({"vlm.checkpoint.depth": str(folder)}, activate=False) as running:
        peer = running.peer
        assert not change(peer, CONFIGURE)
        peer.logged("not configured", str(folder), "bert", "qwen3_vl")
        peer.diagnosed("bert", about="", level=DiagnosticStatus.ERROR)
        assert state(peer) == UNCONFIGURED
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        assert change(peer, CONFIGURE)


def test_cuda_where_there_is_none(checkpoint: Path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    parameters = {"vlm.checkpoint.depth": str(checkpoint), "vlm.device": "cuda"}
    with live(parameters, activate=False) as running:
        peer = running.peer
        for _ in range(2):
            assert not change(peer, CONFIGURE)
            peer.logged("not configured", "device 'cuda'", "no CUDA")
            peer.diagnosed("CUDA", about="", level=DiagnosticStatus.ERROR)
            assert state(peer) == UNCONFIGURED


def test_plugin_that_cannot_make_a_model():
    with live(ros.answered_by("doubles:broken"), activate=False) as running:
        assert not change(running.peer, CONFIGURE)
        running.peer.logged("not configured", "doubles:broken", "broken on purpose")


def test_autostart_with_a_fault_leaves_the_node_alive():
    """The process, not the object: it goes on, says why, and ends well."""
    peer = Peer("/fault")
    try:
        with ros.node(ros.answered_by("doubles:broken"), "-r", "__ns:=/fault") as process:
            process.wait_for("broken on purpose")
            peer.diagnosed("broken on purpose", about="", level=DiagnosticStatus.ERROR)
            assert state(peer) == UNCONFIGURED
            assert process.interrupt() == 0, process.output
            assert "Traceback" not in process.output
    finally:
        peer.close()


# ------------------------------------------------------------------------------------------------ the end


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_frames_flow(sent):
    """Callbacks and the worker are at work when ROS is shut down under them."""
    peer = Peer(f"/flow_{sent}")
    parameters = {**ros.answered_by("doubles:slow:0"), "depth.points": 12}
    try:
        with ros.node(parameters, "-r", f"__ns:=/flow_{sent}") as process:
            depth = peer.listen(Image, "depth/image")
            send = frame_sender(peer)
            peer.until_sent(send, lambda: len(depth) > 1, "two depth images")  # what is said of the first is said
            send()
            assert process.interrupt(by=sent) == 0, process.output
            assert "Traceback" not in process.output
            assert "failed" not in process.output.lower()
    finally:
        peer.close()
