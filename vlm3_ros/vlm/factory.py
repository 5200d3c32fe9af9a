"""From settings to models."""

from __future__ import annotations

import importlib
import os
from functools import cached_property

from vlm3_ros.config import Config, VlmConfig
from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.interface import VLM, ModelError
from vlm3_ros.vlm.models import Models, Source
from vlm3_ros.vlm.served import ServedSource

# Which protocol tasks a task of the node asks.
ASKS = {"depth": ("depth",), "pose": ("pose",), "matches": ("matching",), "objects": ("grounding", "depth")}


def models_for(config: Config, cancel: Cancel | None = None) -> Models:
    """The models behind the configured tasks, none of them loaded yet; ``cancel`` stops what is asked of them.

    Raises ModelError for whatever can be known beforehand: no such checkpoint, another architecture, no CUDA, no
    server that answers.
    """
    checkpoints = {task: getattr(config.vlm.checkpoint, task) for tasks in ASKS.values() for task in tasks}
    checkpoints["objects"] = config.vlm.checkpoint.objects
    _load_plugins()
    cancel = cancel or Cancel()
    source = _ByName(config.vlm, cancel)
    for name in _asked(config):
        source.memory_bytes(name)  # reads its files or asks its server, so it has to be there
    return Models(checkpoints, source, config.vlm.memory_budget_gb, cancel)


def fingerprints(config: Config) -> dict[str, str]:
    """What tells the weights behind the configured tasks from others, by name; of checkpoints on this machine only.

    Raises ModelError where there is no such checkpoint.
    """
    _load_plugins()
    return {name: inspect(name).fingerprint for name in _asked(config) if _scheme(name) is None}


def register(scheme: str, source: Source) -> None:
    """Let ``source`` answer for models whose names are ``scheme:…``.

    For back ends that are not in this package: a module that the environment variable VLM3_PLUGINS names is imported
    before the first model is looked for, and calls this. Settings name models only and can load no code.
    """
    _plugins[scheme] = source


_plugins: dict[str, Source] = {}


def _load_plugins() -> None:
    for module in filter(None, os.environ.get("VLM3_PLUGINS", "").split(",")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ModelError(f"VLM3_PLUGINS names {module!r}, which cannot be imported: {error}") from error


def _asked(config: Config) -> list[str]:
    """The names of the models that are asked, each once."""
    tasks = [asked for task in config.node.tasks for asked in ASKS[task]]
    return sorted({getattr(config.vlm.checkpoint, task) for task in tasks})


def _scheme(name: str) -> str | None:
    """What a name begins with if that says who answers for it; None for checkpoints on this machine."""
    scheme, colon, _ = name.partition(":")
    return scheme if colon and scheme in ("http", "https", *_plugins) else None


class _ByName:
    """Every model from whom its name says: a server, a plug-in, or a checkpoint on this machine."""

    def __init__(self, settings: VlmConfig, cancel: Cancel):
        self._settings = settings
        self._cancel = cancel
        self._served = ServedSource(settings.chunk, cancel)

    @cached_property
    def _local(self) -> Source:
        from vlm3_ros.vlm.local import LocalSource  # torch takes seconds; a robot with served models needs none

        s = self._settings
        return LocalSource(s.device, s.precision, s.chunk, s.distributions, self._cancel)

    def _of(self, name: str) -> Source:
        scheme = _scheme(name)
        return self._local if scheme is None else _plugins.get(scheme, self._served)

    def memory_bytes(self, name: str) -> int:
        return self._of(name).memory_bytes(name)

    def image_scale(self, name: str) -> float:
        return self._of(name).image_scale(name)

    def free_bytes(self) -> int:
        return self._local.free_bytes()

    def open(self, name: str) -> VLM:
        return self._of(name).open(name)
