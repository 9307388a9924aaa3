"""What the documents show is there, and their examples run."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def blocks(document: Path, language: str) -> list[str]:
    """Returns the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_and_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = subprocess.run(
        [str(Path(sys.executable).with_name("lemur")), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
    for command in re.findall(r"(?:`|bin/)lemur ([a-z]+)", text):
        assert re.search(rf"│ {command} ", commands), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_file_exists(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_the_example_of_a_source_works(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    module = ModuleType("letters")
    sys.modules["letters"] = module
    try:
        exec(compile(code, "letters.py", "exec"), module.__dict__)
        (tmp_path / "a.letter").write_text("Dear reader", encoding="utf-8")
        (tmp_path / "b.letter").write_text("Yours", encoding="utf-8")
        source = module.LettersSource.model_validate({"kind": "letters", "name": "mail", "folder": str(tmp_path)})
        assert [record.fields["text"] for record in source.records()] == ["Dear reader", "Yours"]
        assert source.fingerprint() == hashlib.sha256(b"Dear reader\0Yours").hexdigest()
        assert source.estimated_bytes() == 16
    finally:
        del sys.modules["letters"]


def test_the_python_example_of_the_readme_names_what_exists() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    imports = "\n".join(line for line in code.splitlines() if line.startswith(("from ", "import ")))
    namespace: dict[str, object] = {}
    exec(imports, namespace)
    assert {"Client", "load_recipe"} <= set(namespace)
    assert (ROOT / re.findall(r'load_recipe\("([^"]+)"\)', code)[0]).exists()
