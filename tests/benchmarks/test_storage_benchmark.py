"""The benchmark of storage runs: on next to no bytes, so that its figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_every_part_fills_its_tables_and_brings_the_bytes_back(tmp_path: Path) -> None:
    parts = ("shards", "folders")
    small = ("--megabytes=10", "--shards=2", "--shard-megabytes=9", "--repeats=1", "--wait-seconds=0")
    # The interpreter at hand has minio-py and lacks the other clients.
    options = (f"--only={','.join(parts)}", f"--peers-python={sys.executable}", "--clients=lemur,minio-py")
    # A short path: the S3 server's sockets lie in it, and their names may not be long.
    with tempfile.TemporaryDirectory() as folder:
        folders = (f"--memory={folder}", f"--work={folder}", f"--json={tmp_path / 'json'}")
        command = [sys.executable, "-m", "benchmarks.storage", *small, *options, *folders]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        assert not list(Path(folder).iterdir())

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "json").read_text())
    assert list(report["parts"]) == list(parts)
    for name, part in report["parts"].items():
        for table in part["tables"]:
            assert table["title"] in done.stdout
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}
            assert len(table["rows"]) == (3 if name == "folders" else 4)
            assert not [row for row in table["rows"] if "-" in row], "a client failed"


def test_a_client_that_is_not_installed_has_a_row_that_says_so(tmp_path: Path) -> None:
    options = (
        "--only=null",
        "--megabytes=1",
        "--repeats=1",
        "--wait-seconds=0",
        f"--memory={tmp_path}",
        f"--work={tmp_path}",
    )
    command = [sys.executable, "-m", "benchmarks.storage", *options]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "| s5cmd | - | - | - | - | - | not installed; see --peers-python |" in done.stdout
    assert "lemur, with SHA-256 (" in done.stdout


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.storage", "--only=speed"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "no part is named 'speed'; there are null" in done.stderr
