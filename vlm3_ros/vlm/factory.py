"""From settings to models."""

from __future__ import annotations

import importlib
import logging
from functools import cached_property

from vlm3_ros.config import Config, VlmConfig
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.interface import VLM, ModelError
from vlm3_ros.vlm.models import Models, Source
from vlm3_ros.vlm.served import ServedSource

log = logging.getLogger(__name__)

# Which protocol tasks a task of the node asks.
ASKS = {"depth": ("depth",), "pose": ("pose",), "matches": ("matching",), "objects": ("grounding", "depth")}


def models_for(config: Config) -> Models:
    """The models behind the configured tasks, none of them loaded yet.

    Raises ModelError for whatever can be known beforehand: no such checkpoint, another architecture, no CUDA, no
    server that answers.
    """
    checkpoints = {task: getattr(config.vlm.checkpoint, task) for tasks in ASKS.values() for task in tasks}
    checkpoints["objects"] = config.vlm.checkpoint.objects
    source = _source(config)
    for name in _asked(config):
        source.memory_bytes(name)  # reads its files or asks its server, so it has to be there
    return Models(checkpoints, source, config.vlm.memory_budget_gb)


def fingerprints(config: Config) -> dict[str, str]:
    """What tells the weights behind the configured tasks from others, by name; served models show none.

    Raises ModelError where there is no such checkpoint.
    """
    names = [] if config.vlm.test_double else [name for name in _asked(config) if not _is_served(name)]
    return {name: inspect(name).fingerprint for name in names}


def _asked(config: Config) -> list[str]:
    """The names of the models that are asked, each once."""
    tasks = [asked for task in config.node.tasks for asked in ASKS[task]]
    return sorted({getattr(config.vlm.checkpoint, task) for task in tasks})


def _is_served(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _source(config: Config) -> Source:
    if config.vlm.test_double:
        log.warning("answers come from the test double %s, not from a model", config.vlm.test_double)
        return _TestDouble(config.vlm.test_double)
    return _ByName(config.vlm)


class _ByName:
    """Names that begin with http:// or https:// are served models, all others checkpoints on this machine."""

    def __init__(self, settings: VlmConfig):
        self._settings = settings
        self._served = ServedSource(settings.chunk)

    @cached_property
    def _local(self) -> Source:
        from vlm3_ros.vlm.local import LocalSource  # torch takes seconds; a robot with served models needs none

        s = self._settings
        return LocalSource(s.device, s.precision, s.chunk, s.distributions)

    def _of(self, name: str) -> Source:
        return self._served if _is_served(name) else self._local

    def memory_bytes(self, name: str) -> int:
        return self._of(name).memory_bytes(name)

    def image_scale(self, name: str) -> float:
        return self._of(name).image_scale(name)

    def free_bytes(self) -> int:
        return self._local.free_bytes()

    def open(self, name: str) -> VLM:
        return self._of(name).open(name)


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

    def image_scale(self, name: str) -> float:
        return 1.0

    def free_bytes(self) -> int:
        return 1

    def open(self, name: str) -> VLM:
        return self._double
