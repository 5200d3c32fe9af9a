"""Who answers: something that looks at images once and then answers many questions about them.

    with vlm.look([picture]) as view:                  # vision tower and shared prefix: once
        answers = view.ask(depth.questions(pixels))    # hundreds of questions

A local checkpoint, a model server and the tests' stand-in all have this form; a task never knows which one it
talks to.
"""

from vlm3_ros.vlm.cancel import Cancel, Cancelled
from vlm3_ros.vlm.distribution import Distribution
from vlm3_ros.vlm.interface import VLM, Answer, ModelError, Picture, View

__all__ = ["VLM", "Answer", "Cancel", "Cancelled", "Distribution", "ModelError", "Picture", "View"]
