"""The Python entry point: plan a recipe and run it.

    from lemur.client import Client
    from lemur.recipe_file import load_recipe

    result = Client().run(load_recipe("recipes/quickstart.yaml"))

This module and the local runner it starts are the only ones of the library that know Kubeflow Pipelines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lemur.errors import LemurError, error_classes
from lemur.progress import EVENTS_VARIABLE
from lemur.receipt import Receipt
from lemur.recipe import Recipe
from lemur.run_record import RunRecord

Listener = Callable[[dict[str, Any]], None]
"""Called with each progress event, in the order they were written."""

_GRACE_SECONDS = 10.0
"""Time to stop, beyond what the backend gives training processes to store a checkpoint."""


class RunResult(NamedTuple):
    """What a finished run left."""

    record_uri: str
    """Where the run's record stands: recipe, plan, receipts."""
    receipts: dict[str, Receipt]
    """What the stages made, by task."""
    report: Path
    """The HTML report."""


def cache_folder() -> Path:
    """Returns the folder for what can be made or fetched again: `$LEMUR_CACHE`, or `lemur` in the user's cache."""
    named = os.environ.get("LEMUR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lemur"


def compiled_pipeline(name: str) -> Path:
    """Returns the compiled pipeline of a name.

    Raises:
        LemurError: It is neither in the installed package nor in the checkout.
    """
    package = Path(__file__).parent
    # An installed wheel carries the files; in a checkout they stand where they are compiled.
    for folder in (package / "compiled", package.parents[2] / "pipelines" / "compiled"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise LemurError(f"no compiled pipeline {name!r} in {package}; in a checkout, run `make compile`")


class Client:
    """Plans and runs recipes."""

    def run(self, recipe: Recipe, *, listener: Listener = lambda event: None) -> RunResult:
        """Runs a recipe on this machine, through the same pipeline that a cluster runs.

        Stages whose results already exist are not run again. Whatever ends the run early, what it finished
        stays, and the next run goes on from there.

        Args:
            recipe: The recipe.
            listener: Told of progress as it happens.

        Raises:
            PlanError: The run cannot fit; nothing was started.
            GateError: The gate refused the model; nothing was published. The report is written all the same.
            LemurError: A stage failed; the message is that stage's.
        """
        from lemur.plan import check_plan, make_plan
        from lemur.recipe_file import section_parameters

        plan = make_plan(recipe)
        check_plan(plan)
        arguments = section_parameters(recipe)
        record = RunRecord(recipe.storage, recipe.name)
        # A relative path means the folder the command was given in, wherever a step runs.
        arguments["storage"] = record.root_uri
        work = cache_folder() / "runs" / recipe.name
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work, recipe.name):
            record.begin(recipe=arguments, plan=plan.model_dump(mode="json"))
            try:
                _execute(arguments, work=work, listener=listener)
            except BaseException as error:
                try:
                    self.report(recipe.storage, recipe.name, work=work)
                except Exception as unreported:
                    error.add_note(f"the report could not be written either: {unreported}")
                raise
            report = self.report(recipe.storage, recipe.name, work=work)
        return RunResult(record_uri=record.uri, receipts=record.receipts(), report=report)

    def report(self, storage: str, name: str, *, work: Path | None = None) -> Path:
        """Writes the HTML report of a run from its receipts.

        Args:
            storage: Root URI of the run's storage.
            name: Name of the run.
            work: Folder for the file where storage is not a folder of this machine.

        Returns:
            The report; it is also kept with the run's record.
        """
        from lemur.report import write_report

        record = RunRecord(storage, name)
        local = record.folder.local_path("report.html")
        path = local or (work or cache_folder() / "runs" / name) / "report.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(
            record.receipts(),
            recipe=json.loads(record.folder.read("recipe.json")),
            plan=json.loads(record.folder.read("plan.json")),
            path=path,
            title=name,
        )
        if local is None:
            record.folder.upload("report.html", path)
        return path


@contextlib.contextmanager
def _alone(work: Path, name: str) -> Iterator[None]:
    """Holds the run's lock: two runs of one name would write one record."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LemurError(
                f"a run named {name!r} is going on on this machine; wait for it, stop it, or give this one another "
                f"name with `--set name=…`"
            ) from None
        yield


def _execute(arguments: dict[str, Any], *, work: Path, listener: Listener) -> None:
    """Runs the pipeline in a process group of its own and follows its events to the end."""
    events, scratch, log = work / "events.jsonl", work / "tmp", work / "run.log"
    for folder in (work / "kfp", scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    events.write_text("", encoding="utf-8")
    (work / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "lemur.local_pipeline",
        str(os.getpid()),
        str(compiled_pipeline("base_to_agent")),
        str(work / "arguments.json"),
        str(work / "kfp"),
    ]
    environment = {
        **os.environ,
        EVENTS_VARIABLE: str(events),
        "TMPDIR": str(scratch),
        "LEMUR_CACHE": str(cache_folder()),
        # Logs of training jobs are named in errors, so they outlive the run's temporary files.
        "LEMUR_WORK": str(work / "jobs"),
    }
    failure: dict[str, Any] = {}
    with log.open("w", encoding="utf-8") as output, events.open(encoding="utf-8") as lines:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            with _sigterm_interrupts():
                while True:
                    ended = process.poll() is not None
                    for line in lines:
                        event = json.loads(line)
                        failure = event if event["event"] == "error" else failure
                        listener(event)
                    if ended:
                        break
                    time.sleep(0.1)
        except BaseException:
            text = "stopping: training at work stores a checkpoint first; to end it at once, stop again"
            listener({"event": "note", "text": text})
            backend = arguments["hardware"]["backend"]
            _stop(process, grace_seconds=_GRACE_SECONDS + float(backend.get("grace_seconds", 0)))
            raise
    shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode:
        known = error_classes().get(failure.get("type", ""), LemurError)
        raise known(failure.get("message") or f"the run ended unexpectedly; its log's last lines:\n{_tail(log)}")


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Lets SIGTERM stop a run as Ctrl-C does, where this is the main thread."""

    def interrupt(signal_number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Not the main thread: whoever owns that decides about signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """Ends the runner's process group: asks first, insists after a grace period, or when asked to stop once more."""
    process.terminate()
    try:
        with _sigterm_interrupts():
            process.wait(grace_seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, num_lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
