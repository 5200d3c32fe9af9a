"""A recording to perceive, and who does it: in this process or, on Ray, in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm3_ros.config import Config
from vlm3_ros.offline import disk, settings
from vlm3_ros.offline.opening import full_name, open_source
from vlm3_ros.offline.results import Results, RunError, write_whole
from vlm3_ros.offline.run import Run, output_topics
from vlm3_ros.offline.sources import Choices, Source, SourceError
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import fingerprints, models_for
from vlm3_ros.vlm.models import Models


@dataclass(frozen=True)
class Job:
    """One recording, what to take of it, and the folder of its results."""

    source: Path
    out: Path
    choices: Choices
    depth_png: bool = False


def jobs_for(sources: Sequence[Path], out: Path, choices: Choices, depth_png: bool) -> list[Job]:
    """A job for each source; the results of several are in folders named after them. Raises RunError."""
    names = [source.stem if source.is_file() else Path(full_name(source)).name for source in sources]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise RunError(f"there are several recordings named {', '.join(doubled)}: give each an --out of its own")
    folders = [out / name for name in names] if len(sources) > 1 else [out]
    return [Job(source, folder, choices, depth_png) for source, folder in zip(sources, folders, strict=True)]


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    out: Path
    perceived: int = 0  # frames
    lost: int = 0
    first_error: str = ""  # of the lost ones
    failure: str = ""  # why the job could not be done to its end
    asked: int = 0  # questions
    refused: Mapping[str, int] = field(default_factory=dict)  # answers without a value, by reason
    example: str = ""  # one of them
    has_value: bool = True  # anything that was asked


class Worker:
    """Perceives one recording after the other with the same settings and models."""

    def __init__(self, config: Config):
        self._config = config

    def perceive(self, job: Job) -> Outcome:
        """Begin a job, or go on with it. What is the matter with it, its source or a model is in the outcome."""
        results: Results | None = None
        try:
            source = open_source(job.source, job.choices, self._config.camera)
            topics = output_topics(self._config)
            with closing(Results(job.out, self._description(job, source), topics)) as results:
                if not results.finished:
                    write_whole(job.out / "config.yaml", settings.to_yaml(self._config).encode())
                    Run(source, self._config, self._models, results, job.depth_png)()
        except (SourceError, RunError, ModelError, OSError) as error:
            failure = disk.trouble(error, job.out) or str(error)
            if results is not None and results.perceived + results.lost:
                failure += "\nWhat was perceived is kept: the same command goes on with the next frame."
            return Outcome(job.out, failure=failure)
        return Outcome(
            job.out,
            results.perceived,
            results.lost,
            results.first_error,
            asked=results.asked,
            refused=dict(results.refused),
            example=results.example,
            has_value=results.has_value,
        )

    def close(self) -> None:
        """Give back the models."""
        if "_models" in self.__dict__:
            self._models.close()

    @cached_property
    def _models(self) -> Models:
        return models_for(self._config)

    @cached_property
    def _weights(self) -> dict[str, str]:
        """Of the models, which are loaded once, whatever their folders hold when later jobs begin."""
        return fingerprints(self._config)

    def _description(self, job: Job, source: Source) -> dict[str, Any]:
        """What makes this run another one than others."""
        return {
            "source": full_name(job.source),
            "images": len(source.stamps),
            "choices": {**asdict(job.choices), "intrinsics": list(job.choices.intrinsics)},
            "depth_png": job.depth_png,
            "settings": settings.to_parameters(self._config),
            "weights": self._weights,
        }
