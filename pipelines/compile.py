"""Compiles every pipeline of this folder into `compiled/<name>.yaml`.

The compiled files are kept with the sources: they are what `lemur run` executes, what the Kubeflow UI takes,
and what a reviewer sees change. `python -m pipelines.compile --check` fails when one is stale.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from kfp import compiler, dsl

FOLDER = Path(__file__).parent
COMPILED = FOLDER / "compiled"


def compile_all(folder: Path) -> list[Path]:
    """Compiles each module here that defines a pipeline of its own name.

    Args:
        folder: Where the YAML files go.

    Returns:
        The files, sorted by name.
    """
    written = []
    for module_path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"pipelines.{module_path.stem}")
        pipeline = getattr(module, module_path.stem, None)
        if isinstance(pipeline, dsl.base_component.BaseComponent):
            path = folder / f"{module_path.stem}.yaml"
            compiler.Compiler().compile(pipeline, str(path))
            written.append(path)
    return written


def stale(folder: Path = COMPILED) -> list[str]:
    """Returns the names of compiled files that are missing, left over, or not what the sources compile to."""
    with tempfile.TemporaryDirectory() as fresh:
        wanted = {path.name: path.read_text(encoding="utf-8") for path in compile_all(Path(fresh))}
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | kept.keys() if wanted.get(name) != kept.get(name))


def main() -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a compiled file is stale")
    if parser.parse_args().check:
        names = stale()
        for name in names:
            print(f"pipelines/compiled/{name} is stale: run `make compile`", file=sys.stderr)
        return 1 if names else 0
    COMPILED.mkdir(exist_ok=True)
    for path in compile_all(COMPILED):
        print(path.relative_to(FOLDER.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
