"""One description of a training job, rendered by whichever backend runs it."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import BaseModel, ConfigDict, Field

from lemur.plugins import Plugin


class Job(BaseModel):
    """A distributed training job: the same processes whoever starts them."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Deterministic from run and stage, so that a restarted launcher finds the job it started before."""
    module: str
    """Python module each process runs, for example `lemur.training.pretraining`."""
    arguments: list[str] = Field(default_factory=list)
    """Its command-line arguments."""
    num_nodes: int = 1
    """Machines."""
    processes_per_node: int = 1
    """Training processes on each machine, one for each device."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables set in each process, beyond the ones torchrun sets."""


class Backend(Plugin, abstract=True):
    """Runs training jobs to their end."""

    @abstractmethod
    def run(self, job: Job) -> None:
        """Starts the job, or adopts the one of that name, and returns when it has succeeded.

        An interrupt or SIGTERM ends the job's processes before it leaves.

        Raises:
            TrainingError: The job failed; the message says which rank, why, and ends with its last lines.
        """
