"""A run that is killed again and again, and one that is not: whether they make the same results."""

from __future__ import annotations

import random
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
_POLL_SECONDS = 0.02


class _Kill(NamedTuple):
    """A moment at which power goes."""

    partitions: int
    """How many partitions are finished by then at least."""
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
    for number, moment in enumerate(_moments(bench, usual, num_partitions), start=1):
        with running(bench.ours_command("all", work), work=work) as process:
            started = time.perf_counter()
            finished = not _wait(process, broken, moment)
            seconds, step = time.perf_counter() - started, _step(work)
            kill(process)
        if finished:
            table.notes.append(f"Start {number} got to its end before it could be killed.")
            continue
        done = f"{len(_finished(broken))} of {num_partitions}"
        table.add(number, f"{seconds:.2f}", step, done)
        table.measurements.append({"seconds": seconds, "step": step, "partitions": len(_finished(broken))})
        bench.say(f"kill {number}: after {seconds:.2f} s, in {step}, {done} partitions finished")
    last = bench.ours(bench.corpus, storage=broken, partition_bytes=_PARTITION_BYTES)
    table.add(bench.num_kills + 1, "-", f"to its end in {last.seconds:.1f} s", f"{num_partitions} of {num_partitions}")
    table.notes += [
        f"{len(table.measurements)} kills. Unbroken, it takes {usual.seconds:.1f} s. Moments are chosen by chance with "
        f"seed {bench.seed}; kill -9 to every process of the run at once. What the kernel has taken is kept, so "
        "this is no test of the disk.",
        _verdict(unbroken, broken),
    ]
    for folder in (unbroken, broken, work):
        bench.delete(folder)
    return [table]


def _moments(bench: Bench, usual: OurUsage, num_partitions: int) -> list[_Kill]:
    """Returns moments spread by chance over the work, in the order in which the work gets there."""
    chance = random.Random(bench.seed)
    steps = {step: usual.steps[step].seconds for step in STEPS}
    # A start goes through what is finished before it does anything new.
    span = steps["partition"] + steps["tokenize"] / num_partitions
    counts = sorted(chance.randint(0, num_partitions) for _ in range(bench.num_kills))
    return [_Kill(count, chance.uniform(0, span if count < num_partitions else steps["mix"])) for count in counts]


def _wait(process: subprocess.Popen[bytes], storage: Path, moment: _Kill) -> bool:
    """Waits for a moment; returns false where the run ended before it."""
    deadline, reached = time.monotonic() + _TIMEOUT_SECONDS, None
    while process.poll() is None:
        now = time.monotonic()
        if now > deadline:
            raise CommandError(f"{moment.partitions} partitions were not finished after {_TIMEOUT_SECONDS} s")
        if reached is None and len(_finished(storage)) >= moment.partitions:
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
