"""Tables of results, and the facts of the machine they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("lemur", "tokenizers", "fastokens", "numpy", "pyarrow", "orjson", "zstandard", "rensa", "torch")


@dataclass
class Table:
    """One table of the report."""

    title: str
    """What is measured."""
    columns: list[str]
    """Heads of the columns."""
    rows: list[list[str]] = field(default_factory=list)
    """Cells."""
    notes: list[str] = field(default_factory=list)
    """What must be known to read the rows."""
    measurements: list[dict[str, Any]] = field(default_factory=list)
    """Every single measurement, for the JSON file."""

    def add(self, *cells: object) -> None:
        """Adds a row."""
        self.rows.append([str(cell) for cell in cells])

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])


def middle(values: Sequence[float], places: int = 2) -> str:
    """Returns the median, and the smallest and largest value where there are several."""
    median = f"{statistics.median(values):,.{places}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{places}f} to {max(values):,.{places}f})"


def machine() -> dict[str, Any]:
    """Returns what the figures depend on besides the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.split()[1]) / 2**20, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
