"""The benchmark of the data engine runs: on next to no text, so that its figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SMALL = ("--megabytes=1", "--vocab-size=512", "--repeats=1", "--partitions=1000")


def test_every_part_fills_its_tables_and_killed_runs_make_the_same_results(tmp_path: Path) -> None:
    parts = ("places", "packing")
    options = [f"--only={','.join(parts)}", "--kill=1", f"--work={tmp_path}", f"--json={tmp_path / 'json'}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", *_SMALL, *options],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "json").read_text())
    assert list(report["parts"]) == [*parts, "kill"]
    for part in report["parts"].values():
        for table in part["tables"]:
            assert table["title"] in done.stdout
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert "**Verdict: the same.**" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.data", "--only=speed"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "no part is named 'speed'; there are end-to-end" in done.stderr
