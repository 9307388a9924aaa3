"""A run small enough for a test, through the real command line, pipeline, training, servers and sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
REPEATABLE = {"tokens", "dialogues", "initial", "base", "chat"}
LEMUR = str(Path(sys.executable).with_name("lemur"))


def small_recipe(storage: str, corpus: Path) -> dict[str, Any]:
    """The quickstart's recipe with everything small: it must still pass its gate."""
    recipe: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    recipe |= {"name": "small", "storage": storage}
    recipe["model"]["architecture"] |= {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
    }
    recipe["model"]["tokenizer"] |= {"vocab_size": 512, "sample_bytes": 200_000}
    recipe["data"] |= {
        "sequence_length": 64,
        "heldout_fraction": 0.1,
        "sources": [
            {"kind": "files", "name": "code", "group": "code", "root": str(corpus), "patterns": ["*.py"]},
            {"kind": "files", "name": "text", "group": "text", "root": str(corpus), "patterns": ["*.txt"]},
        ],
        "dialogues": [{"kind": "expressions", "name": "expressions", "num_dialogues": 256}],
    }
    recipe["pretrain"] |= {
        "tokens": 20_480,
        "batch_tokens": 512,
        # Steps of some length, so that one can be caught in the middle of training.
        "micro_batch_sequences": 1,
        "warmup_steps": 2,
        "checkpoint_every_steps": 10,
        "log_every_steps": 5,
    }
    recipe["finetune"] |= {
        "epochs": 2,
        "batch_dialogues": 16,
        "micro_batch_dialogues": 16,
        "checkpoint_every_steps": 8,
        "log_every_steps": 4,
    }
    recipe["evaluation"]["benchmarks"] = [
        {"kind": "bits_per_byte", "max_documents": 8},
        {"kind": "expressions", "num_samples": 24},
    ]
    recipe["gate"]["rules"] = [{"benchmark": "bits_per_byte", "metric": "bits_per_byte_code", "better_than": "initial"}]
    return recipe


@dataclass
class Workplace:
    """A recipe in a folder of its own, and the command line run on it."""

    folder: Path
    recipe: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        """Folder of the results."""
        return self.folder / self.recipe["storage"]

    @property
    def record(self) -> Path:
        """Folder of the run's record."""
        return self.storage / "runs" / "small"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Progress events of the latest run."""
        path = self.folder / "cache" / "runs" / "small" / "events.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `lemur run` on the recipe."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe), encoding="utf-8")
        environment = {**os.environ, "LEMUR_CACHE": str(self.folder / "cache"), **self.environment}
        return subprocess.Popen(
            [LEMUR, "run", str(path), *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs `lemur run` to its end and returns what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == exit_code, output
        return output

    def kill_when(self, moment: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Runs until the events show a moment, then kills the command line with no chance to clean up.

        Everything below it must end too: a leftover would write into the next run's results.
        """
        process = self.start()
        deadline = time.monotonic() + 180
        while not moment(self.events):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        below = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 15
        while left := [pid for pid in below if alive(pid)]:
            assert time.monotonic() < deadline, f"still running after the kill: {left}"
            time.sleep(0.1)

    def models(self) -> dict[str, dict[str, str]]:
        """Digest of what must come out the same each time, by task: data and weights.

        The curve and the events beside the weights hold times, and so do scores.
        """
        found = {}
        for task in REPEATABLE:
            receipt = json.loads((self.record / "receipts" / f"{task}.json").read_text(encoding="utf-8"))
            manifest = json.loads((self.local(receipt["uri"]) / "manifest.json").read_text(encoding="utf-8"))
            found[task] = {
                stored["name"]: stored["sha256"]
                for stored in manifest["objects"]
                if stored["name"] != "metrics.jsonl" and not stored["name"].startswith("events/")
            }
        return found

    def local(self, uri: str) -> Path:
        """Returns the folder of a result, also in a storage that was copied here from elsewhere."""
        return self.storage / Path(uri).parent.name / Path(uri).name

    def digests(self) -> dict[str, str]:
        """Content digest of each of the run's results, by task."""
        return {
            path.stem: json.loads(path.read_text(encoding="utf-8"))["digest"]
            for path in sorted((self.record / "receipts").glob("*.json"))
        }


def descendants(pid: int) -> list[int]:
    """Process ids of all below a process."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    found, pending = [], [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred kilobytes of code and text."""
    import pydoc_data.topics
    import sysconfig

    folder = tmp_path_factory.mktemp("corpus")
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py"))[:40]:
        (folder / path.name).write_bytes(path.read_bytes())
    for name, text in sorted(pydoc_data.topics.topics.items()):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Workplace:
    """A small run that went through, unbroken."""
    folder = tmp_path_factory.mktemp("finished")
    workplace = Workplace(folder, small_recipe("artifacts", corpus))
    workplace.run()
    return workplace
