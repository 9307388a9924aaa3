"""What all parts of the benchmark share: its settings, the file that is moved, and the taking of turns."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.processes import CommandError
from benchmarks.data.tables import Table, middle
from benchmarks.s3_server import S3Server
from benchmarks.storage.contenders import Contender, Found, Move, Payload, Share, find_contenders, move
from benchmarks.storage.servers import forget

_MEBIBYTE = 1024 * 1024
_QUIET_SHARE = 0.1


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark."""

    work: Path
    """Folder on disk, for the server that is measured there, and for logs."""
    memory: Path
    """Folder in memory, for the files that are moved and the servers that are measured there."""
    megabytes: int
    """Size of the one object."""
    num_shards: int
    """Objects of a sharded checkpoint."""
    shard_megabytes: int
    """Size of each."""
    processes: int
    """Processes that share the shards."""
    repeats: int
    """How often each figure is measured."""
    peers_python: tuple[str, ...]
    """Interpreters in which other clients are looked for."""
    wait_seconds: float = 0
    """How long each turn waits for a moment in which nothing else runs."""
    only_clients: tuple[str, ...] = ()
    """Beginnings of the names of the clients that are measured; all of them without it."""

    @functools.cached_property
    def contenders(self) -> tuple[dict[Contender, Found], dict[Contender, str]]:
        """The clients that are measured, and why others are not."""
        found, missing = find_contenders(self.peers_python)
        if self.only_clients:
            found = {one: place for one, place in found.items() if one.name.startswith(self.only_clients)}
            missing = {}
        return found, missing

    def payload(self, megabytes: int) -> Payload:
        """Makes a file of bytes that cannot be compressed."""
        path = self.memory / f"source-{megabytes}"
        digest = hashlib.sha256()
        with path.open("wb") as file:
            left = megabytes * 10**6
            while left:
                piece = os.urandom(min(left, 8 * _MEBIBYTE))
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
        return Payload(path, megabytes * 10**6, digest.hexdigest())

    def compare(
        self, title: str, servers: Sequence[S3Server], payload: Payload, num_objects: int, processes: int
    ) -> Table:
        """Measures all clients in turn, in another order each time.

        Args:
            title: Title of the table.
            servers: What they are measured against; several processes take one each in turn.
            payload: What is moved.
            num_objects: How often it is moved, under another name each time.
            processes: Client processes at the same time.
        """
        found, missing = self.contenders
        ups: dict[Contender, list[Move]] = {one: [] for one in found}
        downs: dict[Contender, list[Move]] = {one: [] for one in found}
        names = [f"object-{number:03}" for number in range(num_objects)]
        quiet = True
        for repeat in range(self.repeats):
            order = [one for one in found if one not in missing]
            shift = repeat * (len(order) // max(1, self.repeats))
            for one in order[shift:] + order[:shift]:
                quiet &= _wait_until_quiet(self.wait_seconds)
                try:
                    up, down = self._there_and_back(one, found[one], servers, payload, names, processes, repeat == 0)
                except CommandError as error:
                    missing[one] = str(error).strip().splitlines()[-1][:120].replace("|", "/")
                    continue
                ups[one].append(up)
                downs[one].append(down)
        table = _table(title, found, ups, downs, missing)
        if not quiet:
            table.notes.append(
                "Something else ran on these cores meanwhile: compare the processor's seconds, not the speeds."
            )
        return table

    def _there_and_back(
        self,
        contender: Contender,
        found: Found,
        servers: Sequence[S3Server],
        payload: Payload,
        names: Sequence[str],
        processes: int,
        checked: bool,
    ) -> tuple[Move, Move]:
        copies = self.memory / "copies"
        copies.mkdir()
        lent = [(servers[number % len(servers)], names[number::processes]) for number in range(processes)]
        buckets = [server.new_bucket() for server, _ in lent]
        try:
            shares = [
                Share(server.environment, bucket.removeprefix("s3://"), [(name, payload.path) for name in mine])
                for (server, mine), bucket in zip(lent, buckets, strict=True)
            ]
            up = move(contender, found, "up", shares, payload, self.work / "runs")
            shares = [share._replace(objects=[(name, copies / name) for name, _ in share.objects]) for share in shares]
            down = move(contender, found, "down", shares, payload, self.work / "runs")
            for path in copies.iterdir() if checked else ():
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != payload.sha256:
                        raise CommandError(f"what {contender.name} brought back is not what it took")
            return up, down
        finally:
            shutil.rmtree(copies)
            shutil.rmtree(self.work / "runs", ignore_errors=True)
            for (server, _), bucket in zip(lent, buckets, strict=True):
                forget(server, bucket)


def _wait_until_quiet(limit_seconds: float) -> bool:
    """Waits for a second in which the cores are idle, and tells whether it came in time."""
    deadline = time.monotonic() + limit_seconds
    while (busy := _busy_share()) > _QUIET_SHARE and time.monotonic() < deadline:
        time.sleep(1)
    return busy <= _QUIET_SHARE


def _busy_share() -> float:
    """Returns which share of all cores' time something ran, over a second."""
    samples = []
    for pause in (1, 0):
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        samples.append((sum(fields), fields[3] + fields[4]))  # All, and idle or waiting for a disk.
        time.sleep(pause)
    (all_before, idle_before), (all_after, idle_after) = samples
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def _table(
    title: str,
    found: dict[Contender, Found],
    ups: dict[Contender, list[Move]],
    downs: dict[Contender, list[Move]],
    missing: dict[Contender, str],
) -> Table:
    columns = ["client", "up MB/s", "down MB/s", "CPU s/GB up", "CPU s/GB down", "peak MB up", "peak MB down"]
    table = Table(title, columns)
    for one, place in found.items():
        if not ups[one]:
            continue
        both = (ups[one], downs[one])
        table.add(
            f"{one.name} ({place.version})",
            *(middle([moved.megabytes_per_second for moved in moves], 0) for moves in both),
            *(middle([moved.cpu_seconds_per_gigabyte for moved in moves]) for moves in both),
            *(f"{max(moved.peak_bytes for moved in moves) / 1e6:,.0f}" for moves in both),
        )
        for direction, moves in zip(("up", "down"), both, strict=True):
            table.measurements += [{"client": one.name, "direction": direction, **each._asdict()} for each in moves]
    for one, reason in missing.items():
        table.add(one.name, *["-"] * (len(columns) - 2), reason)
    return table
