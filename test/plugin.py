"""Stand-ins for models, for tests: a model named ``test:module:factory[:argument]`` is what that factory makes."""

from __future__ import annotations

import importlib

from vlm3_ros.vlm import VLM, ModelError
from vlm3_ros.vlm.factory import register


class StandIns:
    """A `Source` of them, made anew each time that one is opened."""

    def memory_bytes(self, name: str) -> int:
        self.open(name)
        return 0

    def image_scale(self, name: str) -> float:
        return 1.0

    def free_bytes(self) -> int:
        return 1

    def open(self, name: str) -> VLM:
        _, module, factory, *argument = name.split(":", 3)
        try:
            return getattr(importlib.import_module(module), factory)(*argument)
        except (ImportError, AttributeError, OSError) as error:
            raise ModelError(f"{name} cannot be made: {error}") from error


register("test", StandIns())
