"""From settings to models."""

from __future__ import annotations

import importlib
import logging

from vlm3_ros.config import Config
from vlm3_ros.vlm.interface import VLM, ModelError
from vlm3_ros.vlm.models import Models, Source

log = logging.getLogger(__name__)

# Which protocol tasks a task of the node asks.
ASKS = {"depth": ("depth",), "pose": ("pose",), "matches": ("matching",), "objects": ("grounding", "depth")}


def models_for(config: Config) -> Models:
    """The models behind the configured tasks, none of them loaded yet.

    Raises ModelError for whatever can be known beforehand: no such checkpoint, another architecture, no CUDA.
    """
    checkpoints = {task: getattr(config.vlm.checkpoint, task) for tasks in ASKS.values() for task in tasks}
    checkpoints["objects"] = config.vlm.checkpoint.objects
    source = _source(config)
    for task in config.node.tasks:
        for asked in ASKS[task]:
            source.memory_bytes(checkpoints[asked])  # reads the checkpoint's files, so it has to be there
    return Models(checkpoints, source, config.vlm.memory_budget_gb)


def _source(config: Config) -> Source:
    if config.vlm.test_double:
        log.warning("answers come from the test double %s, not from a model", config.vlm.test_double)
        return _TestDouble(config.vlm.test_double)
    from vlm3_ros.vlm.local import LocalSource  # torch takes seconds to import

    return LocalSource(config.vlm.device, config.vlm.precision, config.vlm.chunk, config.vlm.distributions)


class _TestDouble:
    """Whatever model is asked for, the same stand-in: ``module:factory:argument``."""

    def __init__(self, spec: str):
        module, factory, *argument = spec.split(":", 2)
        try:
            self._double: VLM = getattr(importlib.import_module(module), factory)(*argument)
        except (ImportError, AttributeError, OSError) as error:
            raise ModelError(f"vlm.test_double {spec!r} cannot be made: {error}") from error

    def memory_bytes(self, name: str) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    def open(self, name: str) -> VLM:
        return self._double
