"""A file that is dropped into a plugin folder is found, and a wrong one is named."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from lemur.plugins import OneOf, Plugin, Section, discover

FOLDERS = ("lemur.data.sources", "lemur.training.backends", "lemur.evaluation.benchmarks", "lemur.serving.runtimes")

_BASE = """
from lemur.plugins import Plugin
class Animal(Plugin, abstract=True):
    \"\"\"Base of the folder.\"\"\"
"""

_VARIANT = """
from typing import Literal
from {package}.base import Animal
class {class_name}(Animal):
    kind: Literal["{kind}"] = "{kind}"
    num_legs: int = {legs}
    \"\"\"Legs it stands on.\"\"\"
"""


class Zoo:
    """A package with a plugin folder, made for one test."""

    def __init__(self, root: Path) -> None:
        self.package = f"zoo_{uuid.uuid4().hex[:8]}"
        self.folder = f"{self.package}.animals"
        self._path = root / self.package
        (self._path / "animals").mkdir(parents=True)
        (self._path / "__init__.py").touch()
        (self._path / "animals" / "__init__.py").touch()
        (self._path / "base.py").write_text(_BASE)

    def add(self, kind: str, legs: int, *, file: str | None = None) -> None:
        text = _VARIANT.format(package=self.package, class_name=kind.title(), kind=kind, legs=legs)
        self.write(file or kind, text)

    def write(self, file: str, text: str) -> None:
        (self._path / "animals" / f"{file}.py").write_text(text)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Zoo(tmp_path)


def _adapter(zoo: Zoo) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Plugin, OneOf(zoo.folder)])


def test_files_of_a_folder_are_found_and_sorted(zoo: Zoo) -> None:
    zoo.add("lemur", 4)
    zoo.add("crane", 2)
    assert list(discover(zoo.folder)) == ["crane", "lemur"]


def test_a_kind_chooses_the_variant_and_its_defaults(zoo: Zoo) -> None:
    zoo.add("lemur", 4)
    zoo.add("crane", 2)
    adapter = _adapter(zoo)
    assert adapter.validate_python({"kind": "crane"}).num_legs == 2
    chosen = adapter.validate_python({"kind": "lemur", "num_legs": 3})
    assert (type(chosen).__name__, chosen.num_legs) == ("Lemur", 3)
    assert adapter.validate_json(adapter.dump_json(chosen)) == chosen


def test_an_unknown_kind_is_answered_with_the_known_ones(zoo: Zoo) -> None:
    zoo.add("lemur", 4)
    zoo.add("crane", 2)
    with pytest.raises(ValidationError, match=r"'ant'.*'crane', 'lemur'"):
        _adapter(zoo).validate_python({"kind": "ant"})


def test_an_unknown_key_of_a_variant_is_refused(zoo: Zoo) -> None:
    zoo.add("lemur", 4)
    with pytest.raises(ValidationError, match="num_wings"):
        _adapter(zoo).validate_python({"kind": "lemur", "num_wings": 2})


def test_the_json_schema_names_every_variant_and_its_settings(zoo: Zoo) -> None:
    zoo.add("lemur", 4)
    zoo.add("crane", 2)
    schema = _adapter(zoo).json_schema()
    assert set(schema["discriminator"]["mapping"]) == {"crane", "lemur"}
    assert schema["$defs"]["Lemur"]["properties"]["num_legs"]["description"] == "Legs it stands on."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "must define exactly one plugin, and defines 0"),
        (
            _VARIANT.format(package="{package}", class_name="A", kind="wrong", legs=1)
            + _VARIANT.format(package="{package}", class_name="B", kind="wrong", legs=1),
            "must define exactly one plugin, and defines 2",
        ),
        ("from {package}.base import Animal", "must define exactly one plugin, and defines 0"),
        (
            _VARIANT.format(package="{package}", class_name="A", kind="other", legs=1),
            "must declare `kind: Literal\\['wrong'\\]`, and declares 'other'",
        ),
        (
            "from {package}.base import Animal\nclass A(Animal):\n    num_legs: int = 1\n",
            "must declare `kind: Literal\\['wrong'\\]`, and declares None",
        ),
    ],
)
def test_a_file_that_is_no_plugin_is_named(zoo: Zoo, text: str, message: str) -> None:
    zoo.write("wrong", text.replace("{package}", zoo.package))
    with pytest.raises(TypeError, match=f"{zoo.folder}.wrong {message}"):
        discover(zoo.folder)


def test_another_distribution_adds_a_variant_through_an_entry_point(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.add("lemur", 4)
    extension = tmp_path / f"{zoo.package}_ant.py"
    extension.write_text(_VARIANT.format(package=zoo.package, class_name="Ant", kind="ant", legs=6))
    metadata = tmp_path / f"{zoo.package}_ant-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {zoo.package}-ant\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{zoo.folder}]\nant = {zoo.package}_ant\n")
    assert importlib.metadata.entry_points(group=zoo.folder)
    assert _adapter(zoo).validate_python({"kind": "ant"}).num_legs == 6
    assert list(discover(zoo.folder)) == ["ant", "lemur"]


def test_a_section_cannot_be_changed_and_refuses_unknown_keys() -> None:
    class Speed(Section):
        limit_tokens: int = 1
        """Most tokens at once."""

    with pytest.raises(ValidationError, match="frozen"):
        Speed().limit_tokens = 2
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Speed(limit=2)  # type: ignore[call-arg]
    assert Speed.model_fields["limit_tokens"].description == "Most tokens at once."


def test_a_base_is_abstract_and_its_variants_are_not() -> None:
    class Base(Plugin, abstract=True):
        pass

    class Variant(Base):
        kind: Literal["variant"] = "variant"

    assert Base.abstract
    assert not Variant.abstract


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_shipped_plugin_is_documented(folder: str) -> None:
    for kind, variant in discover(folder).items():
        assert issubclass(variant, BaseModel)
        assert variant.__doc__, f"{folder}.{kind} has no docstring"
        for name, field in variant.model_fields.items():
            assert name == "kind" or field.description, f"{folder}.{kind}: {name} has no sentence"


def test_finding_plugins_imports_nothing_heavy() -> None:
    program = f"""if True:
        import sys
        from lemur.plugins import discover
        for folder in {FOLDERS!r}:
            discover(folder)
        heavy = {{"torch", "transformers", "datasets", "pyarrow", "inspect_ai", "fastapi", "kfp", "minio"}}
        print(sorted(heavy & set(sys.modules)))
    """
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
