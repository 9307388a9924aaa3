"""Other tools that tokenize: which are here, and what they take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.bench import Bench
from benchmarks.data.corpus import Corpus
from benchmarks.data.processes import measure

_PEERS = {
    "datatrove": "datatrove",
    "plain tokenizers": "tokenizers",
    "datasets": "datasets",
    "megatron-core": "megatron.core",
    "mosaicml-streaming": "streaming",
}
"""Other tools, and the module that each needs; its script is `peers/<first word of its name>_tokens.py`."""
_SCRIPTS = {"plain tokenizers": "plain", "megatron-core": "megatron", "mosaicml-streaming": "mds"}
_PROBE = """
import importlib.util, importlib.metadata, sys
name = sys.argv[1].partition(".")[0]
assert importlib.util.find_spec(name)
print(importlib.metadata.version(importlib.metadata.packages_distributions()[name][0]))
"""


class Run(NamedTuple):
    """One measurement."""

    seconds: float
    """Wall time."""
    tokens: int
    """Tokens that came out."""
    peak_bytes: int
    """Memory."""
    cpu_seconds: float
    """Processor time."""


class Peer(NamedTuple):
    """Another tool."""

    python: str
    """Interpreter that has it."""
    version: str
    """Its version."""


def find_peers(bench: Bench) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns the tools that are installed, and why others are not measured."""
    found: dict[str, Peer] = {}
    for name, module in _PEERS.items():
        # Encoding with the plain library needs nothing that this interpreter lacks.
        for python in (*bench.peers_python, *([sys.executable] if name == "plain tokenizers" else [])):
            probe = subprocess.run([python, "-c", _PROBE, module], capture_output=True, text=True, check=False)
            if probe.returncode == 0:
                found.setdefault(name, Peer(python, probe.stdout.strip()))
    return found, {name: "not installed; see --peers-python" for name in _PEERS if name not in found}


def measure_peer(bench: Bench, name: str, peer: Peer, corpus: Corpus) -> Run:
    """Has a tool tokenize a corpus.

    Raises:
        CommandError: It fails.
    """
    work = bench.new_folder("peer")
    (work / "result").mkdir()
    script = Path(__file__).parent / "peers" / f"{_SCRIPTS.get(name, name)}_tokens.py"
    tokenizer = bench.tokenizer / "tokenizer.json"
    definition = json.loads(tokenizer.read_text())
    end_of_text = next(token["id"] for token in definition["added_tokens"])
    command: list[str | Path] = [
        peer.python,
        script,
        tokenizer,
        str(end_of_text),
        work / "result",
        str(bench.processes),
        *corpus.files,
    ]
    usage = measure(command, work=work)
    bench.delete(work)
    return Run(usage.seconds, usage.output["tokens"], usage.peak_bytes, usage.cpu_seconds)
