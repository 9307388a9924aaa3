"""A run that is killed again and again, and one that is not: whether they make the same results."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.bench import Bench, OurUsage
from benchmarks.data.ours import STEPS
from benchmarks.data.processes import CommandError, kill, running
from benchmarks.data.tables import Table

_FOLDERS = ("partitions", "documents", "tokens")
_PARTITION_BYTES = 64_000_000
_TIMEOUT_SECONDS = 600
_STARTS_EACH = 5
"""So many starts a kill may take, where a run is at its end before the moment comes."""
_POLL_SECONDS = 0.02


class _Kill(NamedTuple):
    """A moment at which power goes."""

    step: str
    """Step that must have begun by then."""
    partitions: int
    """How many partitions must be finished by then."""
    seconds: float
    """How long after that."""


def killing(bench: Bench) -> list[Table]:
    """Kills all processes of a run at moments chosen by chance, until it gets to its end, and compares results."""
    unbroken, broken = bench.new_folder("unbroken"), bench.new_folder("broken")
    usual = bench.ours(bench.corpus, storage=unbroken, partition_bytes=_PARTITION_BYTES)
    num_partitions = int(usual.steps["partition"].output["partitions"])
    work = bench.new_folder("killed")
    bench.write_settings(bench.corpus, broken, work, partition_bytes=_PARTITION_BYTES)
    table = Table(
        f"Killed: {bench.corpus.num_bytes / 1e6:,.0f} MB of text in {num_partitions} partitions",
        ["start", "seconds until it was killed", "running", "partitions that were finished"],
    )
    chance, number = random.Random(bench.seed), 0
    for moment in _moments(chance, bench.num_kills, usual, num_partitions):
        for _ in range(_STARTS_EACH):
            number += 1
            with running(bench.ours_command("all", work), work=work) as process:
                started = time.perf_counter()
                killed = _wait(process, broken, work, moment)
                seconds, step = time.perf_counter() - started, _step(work)
                kill(process)
            finished = _finished(broken)
            if killed:
                done = f"{len(finished)} of {num_partitions}"
                table.add(number, f"{seconds:.2f}", step, done)
                table.measurements.append({"seconds": seconds, "step": step, "partitions": len(finished)})
                bench.say(f"kill {number}: after {seconds:.2f} s, in {step}, {done} partitions finished")
                break
            gone = sorted(finished)[chance.randrange(num_partitions)].parent
            table.notes.append(f"Start {number} was at its end before; its mixture and {gone.name} were deleted.")
            shutil.rmtree(broken / "tokens")
            shutil.rmtree(gone)
    last = bench.ours(bench.corpus, storage=broken, partition_bytes=_PARTITION_BYTES)
    table.add("last", "-", f"to its end in {last.seconds:.1f} s", f"{num_partitions} of {num_partitions}")
    table.notes += [
        f"{len(table.measurements)} kills. Unbroken, it takes {usual.seconds:.1f} s. Moments are chosen by chance with "
        f"seed {bench.seed}; kill -9 to every process of the run at once. What the kernel has taken is kept, so "
        "this is no test of the disk.",
        _verdict(unbroken, broken),
    ]
    for folder in (unbroken, broken, work):
        bench.delete(folder)
    return [table]


def _moments(chance: random.Random, count: int, usual: OurUsage, num_partitions: int) -> list[_Kill]:
    """Returns moments in the order in which the work gets there: the first is early, the last in the mix step."""
    seconds = {step: usual.steps[step].seconds for step in STEPS}
    # Half of the mix step's time is Python's start, and a partition is finished this often.
    spans = {"partition": seconds["partition"], "tokenize": seconds["tokenize"] / num_partitions}
    spans["mix"] = seconds["mix"] / 2
    done = sorted(chance.randrange(num_partitions) for _ in range(count))
    moments = [_Kill("tokenize", finished, chance.uniform(0, spans["tokenize"])) for finished in done]
    if count > 2:
        moments[0] = _Kill("", 0, chance.uniform(0, spans["partition"]))
    if count > 1:
        moments[-1] = _Kill("mix", num_partitions, chance.uniform(0, spans["mix"]))
    return moments


def _wait(process: subprocess.Popen[bytes], storage: Path, work: Path, moment: _Kill) -> bool:
    """Waits for a moment; returns false where the run ended before it."""
    deadline, reached = time.monotonic() + _TIMEOUT_SECONDS, None
    while process.poll() is None:
        now = time.monotonic()
        if now > deadline:
            raise CommandError(f"{moment.partitions} partitions were not finished after {_TIMEOUT_SECONDS} s")
        if reached is None and moment.step in _step(work) and len(_finished(storage)) >= moment.partitions:
            reached = now
        if reached is not None and now >= reached + moment.seconds:
            return True
        time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise CommandError(f"a run after a kill ended with {process.returncode}")
    return False


def _step(work: Path) -> str:
    """Returns the step that a run is in, by what it said last."""
    lines = (work / "log").read_text(errors="replace").splitlines()
    said = [line.removeprefix("stage: ") for line in lines if line.startswith("stage: ")]
    return said[-1] if said else "start of the run"


def _finished(storage: Path) -> list[Path]:
    return list(storage.glob("documents/*/manifest.json"))


def _verdict(unbroken: Path, broken: Path) -> str:
    """Compares what two runs stored, and each stored object with its manifest."""
    first, second = _results(unbroken), _results(broken)
    differing = sorted(prefix for prefix in first.keys() | second.keys() if first.get(prefix) != second.get(prefix))
    damaged = [fault for storage in (unbroken, broken) for fault in _faults(storage)]
    if differing or damaged:
        return f"**Verdict: not the same.** Differing results: {differing[:5]}; damaged objects: {damaged[:5]}."
    documents = sum(prefix.startswith("documents/") for prefix in first)
    return (
        f"**Verdict: the same.** All {len(first)} results ({documents} of documents, the mixture, the list of "
        "partitions) have the digests of the unbroken run's, every object has the content that its manifest says, and "
        "nothing else lies beside them."
    )


def _results(storage: Path) -> dict[str, str]:
    """Returns the content digest of each result by its prefix."""
    from lemur.results import read_manifest

    manifests = [path for folder in _FOLDERS for path in storage.glob(f"{folder}/*/manifest.json")]
    return {str(path.parent.relative_to(storage)): read_manifest(path.parent.as_uri()).digest for path in manifests}


def _faults(storage: Path) -> list[str]:
    """Returns objects that are not what their manifest says, and files that no manifest names."""
    from lemur.results import read_manifest
    from lemur.storage.integrity import describe

    faults = []
    for prefix in _results(storage):
        folder = storage / prefix
        for stored in read_manifest(folder.as_uri()).objects:
            path = folder / stored.name
            if not path.is_file() or describe(stored.name, path) != stored:
                faults.append(str(path))
        named = {stored.name for stored in read_manifest(folder.as_uri()).objects} | {"manifest.json"}
        faults += [
            str(path) for path in folder.rglob("*") if path.is_file() and str(path.relative_to(folder)) not in named
        ]
    return faults
