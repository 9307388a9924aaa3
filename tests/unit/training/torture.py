"""A run of two processes that is broken again and again, and each time goes on by itself or with one command.

`python torture.py JOB` is that one command.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from written import is_running

from benchmarks import s3_server
from lemur.errors import LemurError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection, PretrainSection
from lemur.storage import open_storage
from lemur.training.backends.local import LocalBackend
from lemur.training.workplace import marked

FILE_LIMIT_BYTES = 60_000
"""Largest file where the disk is to be full: less than a process's part of a checkpoint, more than all else."""
_DEADLINE_SECONDS = 240.0
_SURVIVED = {"storage gone", "disk full for a while"}
"""What training goes on through without an end."""


class Done(NamedTuple):
    """One break, and what became of it."""

    kind: str
    """What was done."""
    at_step: int
    """Last step that was made before."""
    resumed_at: int | None
    """Step of the checkpoint that the run went on from; `None` where it never stopped."""
    by_itself: bool
    """Whether it went on without another command."""
    seconds: float
    """Time until it was past the step at which it was broken."""


class RestartedServer:
    """An S3 server that can be killed and started again with what it held.

    Args:
        folder: Its folder; a short path, for its sockets.
    """

    def __init__(self, folder: Path) -> None:
        program = s3_server.find_server()
        assert program, "the S3 server is missing: install the `dev` extra"
        ports = s3_server.free_ports(2 * len(s3_server._SERVICES))
        self.server = s3_server.S3Server(f"http://127.0.0.1:{ports[0]}")
        (folder / "s3.json").write_text(json.dumps(s3_server._identities(self.server)), encoding="utf-8")
        self._command, self._folder = [program, *s3_server._arguments(folder, ports)], folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        wait_until(lambda: s3_server._is_up(self.server))

    def kill(self) -> None:
        """Kills it."""
        if self._process:
            self._process.kill()
            self._process.wait()


class Tortured:
    """A run and what is done to it.

    Args:
        folder: Local folder for everything of it.
        job: What `launch` needs, as JSON values.
        environment: Variables of its processes.
        num_steps: Steps of the run.
    """

    def __init__(self, folder: Path, job: dict[str, object], environment: dict[str, str], num_steps: int) -> None:
        self._folder, self._num_steps = folder, num_steps
        folder.mkdir(parents=True)
        self.events = folder / "events.jsonl"
        self.events.touch()
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        self._environment = {**environment, "LEMUR_WORK": str(folder / "work"), "LEMUR_PROGRESS": str(self.events)}
        self.launcher: subprocess.Popen[bytes] | None = None

    @property
    def step(self) -> int:
        """Last step that was made; 0 before the first."""
        return next((marked(path.parent, "step") or 0 for path in self._folder.glob("work/*/step.mark")), 0)

    def attempts(self) -> list[int]:
        """Returns the steps that attempts began with so far, 0 for the beginning."""
        said, found, step = "going on from the checkpoint of step ", [], 0
        for line in self.events.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["event"] == "note" and said in event["text"]:
                step = int(event["text"].partition(said)[2].replace(",", ""))
            elif event["event"] == "start" and event["task"] == "pretrain":
                found.append(step)
                step = 0
        return found

    def launch(self, *, full_disk: bool = False) -> None:
        """Gives the command."""
        command = [sys.executable, __file__, str(self._folder / "job.json")]
        environment = {**os.environ, **self._environment, **({"FULL_DISK": "1"} if full_disk else {})}
        with (self._folder / "launcher.log").open("ab") as log:
            self.launcher = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def ranks(self) -> dict[int, int]:
        """Returns the process ids of the training processes, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if b"lemur.training.pretraining" not in (folder / "cmdline").read_bytes():
                    continue
                variables = dict(entry.partition(b"=")[::2] for entry in (folder / "environ").read_bytes().split(b"\0"))
                if variables.get(b"LEMUR_WORK") == str(self._folder / "work").encode() and b"RANK" in variables:
                    found[int(variables[b"RANK"])] = int(folder.name)
        return found

    def wait_for_end(self, exit_codes: set[int]) -> None:
        """Waits until the command has ended, with one of these exit codes, and nothing of it runs any more."""
        assert self.launcher
        code = self.launcher.wait(_DEADLINE_SECONDS)
        assert code in exit_codes, (code, (self._folder / "launcher.log").read_text()[-3000:])
        wait_until(lambda: not any(is_running(pid) for pid in self.ranks().values()))

    def wait_for_step(self, step: int) -> None:
        """Waits until a step was made."""
        assert self.launcher
        launcher = self.launcher
        wait_until(lambda: self.step >= step or launcher.poll() is not None)
        assert launcher.poll() is None or self.step >= step, (self._folder / "launcher.log").read_text()[-3000:]

    def checkpoints(self, storage: str) -> list[str]:
        """Returns the whole checkpoints, oldest first, each by its prefix below the storage's root."""
        names = [found.name for found in open_storage(storage).list()]
        return sorted(name.rpartition("/")[0] for name in names if "-steps/" in name and name.endswith("manifest.json"))


class Torture:
    """What can be done to a run: each method breaks it once and has it go on.

    Args:
        run: The run, which is going on.
        storage: Root URI of its storage.
        server: The server of that.
        chosen: Chance.
        outage_seconds: How long the storage is away.
    """

    def __init__(
        self, run: Tortured, storage: str, server: RestartedServer, chosen: random.Random, *, outage_seconds: float
    ) -> None:
        self._run, self._storage, self._server = run, storage, server
        self._chosen, self._outage_seconds = chosen, outage_seconds

    def kinds(self) -> dict[str, Callable[[], bool]]:
        """Returns what can be done, by name; each says whether the run went on by itself."""
        return {
            "kill -9 of a rank": self._kill_rank,
            "SIGTERM to a rank": self._terminate_rank,
            "kill -9 of the launcher": self._kill_launcher,
            "SIGTERM to the launcher": self._terminate_launcher,
            "storage gone": self._stop_storage,
            "disk full for a while": self._fill_disk_for_a_while,
            "disk full": self._fill_disk,
            "a bit flipped": self._flip_bit,
        }

    def go(self, num_rounds: int, *, most_steps: int) -> Iterator[Done]:
        """Breaks the run so many times, each kind of break as often as the others.

        Args:
            num_rounds: How often.
            most_steps: Most steps between two breaks.
        """
        kinds = self.kinds()
        order: list[str] = []
        while len(order) < num_rounds:
            order += self._chosen.sample(sorted(kinds), len(kinds))
        for kind in order[:num_rounds]:
            self._run.wait_for_step(self._run.step + self._chosen.randint(1, most_steps))
            # Anywhere between two steps.
            time.sleep(self._chosen.uniform(0, 0.1))
            run = self._run
            at_step, before, began = run.step, len(run.attempts()), time.monotonic()
            by_itself = kinds[kind]()
            if kind not in _SURVIVED:
                # The mark of a step may be from before, so another attempt must have begun.
                wait_until(lambda run=run, before=before: len(run.attempts()) > before)
            run.wait_for_step(at_step + 1)
            begun = run.attempts()[before:]
            yield Done(kind, at_step, begun[-1] if begun else None, by_itself, time.monotonic() - began)

    def _kill_rank(self) -> bool:
        os.kill(self._some_rank(), signal.SIGKILL)
        return True

    def _terminate_rank(self) -> bool:
        os.kill(self._some_rank(), signal.SIGTERM)
        return True

    def _kill_launcher(self) -> bool:
        assert self._run.launcher
        self._run.launcher.kill()
        self._run.wait_for_end({-signal.SIGKILL})
        self._run.launch()
        return False

    def _terminate_launcher(self) -> bool:
        assert self._run.launcher
        self._run.launcher.terminate()
        self._run.wait_for_end({128 + signal.SIGTERM})
        self._run.launch()
        return False

    def _stop_storage(self) -> bool:
        self._server.kill()
        time.sleep(self._outage_seconds)
        self._server.start()
        return True

    def _fill_disk(self) -> bool:
        assert self._run.launcher
        self._run.launcher.kill()
        self._run.wait_for_end({-signal.SIGKILL})
        self._run.launch(full_disk=True)
        # Started again in vain, as often as it may be, it says what is wrong.
        self._run.wait_for_end({4})
        self._run.launch()
        return False

    def _fill_disk_for_a_while(self) -> bool:
        wait_until(lambda: len(self._run.ranks()) == 2)
        ranks = list(self._run.ranks().values())
        for limit in (FILE_LIMIT_BYTES, resource.RLIM_INFINITY):
            for pid in ranks:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            if limit == FILE_LIMIT_BYTES:
                time.sleep(self._outage_seconds)
        return True

    def _flip_bit(self) -> bool:
        assert self._run.launcher
        self._run.launcher.kill()
        self._run.wait_for_end({-signal.SIGKILL})
        whole = self._run.checkpoints(self._storage)
        if whole:
            storage = open_storage(self._storage)
            names = [found.name for found in storage.list() if found.name.startswith(whole[-1] + "/")]
            name = self._chosen.choice([name for name in names if "/state-" in name])
            data = bytearray(storage.read(name))
            data[self._chosen.randrange(len(data))] ^= 1 << self._chosen.randrange(8)
            storage.write(name, bytes(data))
        self._run.launch()
        return False

    def _some_rank(self) -> int:
        wait_until(lambda: len(self._run.ranks()) == 2)
        return self._run.ranks()[self._chosen.randrange(2)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until something holds; fails where it does not in time."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def job(storage: str, tokens: Receipt, model: ModelSection, section: PretrainSection) -> dict[str, object]:
    """Returns a job as `main` reads it."""
    return {
        "storage": storage,
        "tokens": tokens.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "section": section.model_dump(mode="json"),
    }


def main() -> int:
    """Pretrains; returns the exit code of the command line."""
    from small_training import hardware_section

    from lemur.training import run

    read = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if "FULL_DISK" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
    backend = LocalBackend(kind="local", max_restarts=1, grace_seconds=60, storage_pause_seconds=0.5)
    try:
        run.pretrain(
            model=ModelSection.model_validate(read["model"]),
            pretrain=PretrainSection.model_validate(read["section"]),
            hardware=hardware_section(backend, devices_per_node=2),
            tokens=Receipt.model_validate(read["tokens"]),
            storage=read["storage"],
            run="tortured",
        )
    except LemurError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
