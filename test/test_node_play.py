"""A bag is played when the node is ready for it, and its end is that of the last frame."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ros
from live import Live, Peer, live, stamp
from sensor_msgs.msg import Image

# In place of `ros2 bag play`, which does not come as a wheel: says what it was told, and plays five images.
PLAYER = f"""#!{sys.executable}
import sys, time
sys.path.insert(0, {str(ros.TEST)!r})
from live import SECOND, CameraInfo, Image, Peer, image, info
print("told:", *sys.argv[1:], flush=True)
if "bad" in sys.argv:
    sys.exit("there is no such bag")
peer = Peer({{namespace!r}})
images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
for i in range(1, 6):
    infos.publish(info())
    images.publish(image(i * SECOND))
    time.sleep(0.2)
print("played", flush=True)
"""


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a `ros2` on the path that plays into a namespace."""

    def install(namespace: str) -> None:
        program = tmp_path / "ros2"
        program.write_text(PLAYER.replace("{namespace!r}", repr(namespace)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def play(namespace: str, *options: str) -> ros.Process:
    return ros.Process(ros.ROOT / "scripts" / "play_bag", *options, "--ros-args", "-r", f"__ns:={namespace}")


def test_bag_is_played_to_a_node_that_is_ready_and_perceived_to_its_end(player):
    player("/play")
    parameters = {**ros.answered_by("doubles:slow:1"), "node.tasks": ["depth"], "depth.points": 12}
    peer = Peer("/play")
    try:
        depth = peer.listen(Image, "depth/image")
        with play("/play", "run1", "--rate", "2.0") as playing, ros.node(parameters, "-r", "__ns:=/play"):
            peer.until(lambda: not playing.alive, "the end of the bag")
            assert playing.wait(5.0) == 0
        said = playing.output
        assert said.index("/play/vlm3 is ready") < said.index("told: bag play run1 --rate 2.0") < said.index("played")
        peer.until(lambda: depth, "depth")
        assert stamp(depth[-1]) == 5 * 10**9  # the last image, a second behind the end of the bag
    finally:
        peer.close()


def test_player_that_fails_is_a_failure(player):
    with live() as running:
        player(running.namespace)
        with play(running.namespace, "bad") as playing:
            running.peer.until(lambda: not playing.alive, "the end of play_bag")
            assert playing.wait(5.0) == 1
            assert "`ros2 bag play` ended with status 1" in playing.output
            assert "Traceback" not in playing.output


def test_node_that_cannot_be_configured_is_a_failure(player):
    player("/unready")
    parameters = ros.answered_by("doubles:broken")
    with ros.node(parameters, "-r", "__ns:=/unready"), play("/unready", "run1") as playing:
        assert playing.wait(30.0) == 1
        assert "/unready/vlm3 is not ready, and the bag is not played" in playing.output
        assert "broken on purpose" in playing.output


def test_interrupted_while_it_waits_it_ends_well():
    with play("/nobody", "run1") as playing:
        playing.wait_for("waiting for /nobody/vlm3")
        assert playing.interrupt() == 0
        assert "Traceback" not in playing.output


def test_models_are_loaded_before_the_first_frame_if_asked():
    with live({"vlm.preload": True}) as running:
        running.peer.diagnosed("loaded", about="model")
        assert running.received() == 0
        running.peer.until(lambda: said(running)["busy"] == "False", "a node at rest")
    with live() as running:
        running.peer.until(lambda: said(running).get("state") == "active", "an active node")
        running.peer.diagnosed("not loaded", about="model")


def said(running: Live) -> dict[str, str]:
    status = running.peer.status()
    return {pair.key: pair.value for pair in status.values} if status else {}
