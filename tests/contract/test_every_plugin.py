"""What every variant of every plugin folder keeps to, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from lemur.plugins import Plugin, discover

FOLDERS = (
    "lemur.data.sources",
    "lemur.data.filters",
    "lemur.training.backends",
    "lemur.training.engines",
    "lemur.evaluation.benchmarks",
    "lemur.serving.runtimes",
)
VARIANTS = [
    pytest.param(folder, kind, variant, id=f"{folder.rpartition('.')[2]}-{kind}")
    for folder in FOLDERS
    for kind, variant in discover(folder).items()
]
HEAVY = (
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "fastapi", "httpx", "huggingface_hub", "inspect_ai", "kfp",
    "minio", "numpy", "openai", "orjson", "peft", "py3langid", "pyarrow", "tokenizers", "torch", "transformers", "trl",
    "uvicorn", "zstandard",
)  # fmt: skip
SAMPLE_VALUES: dict[str, Any] = {
    "name": "sample", "root": "folder", "dataset": "owner/name",
    "field": "licence", "values": ["mit"], "languages": ["en"],
}  # fmt: skip
"""Values for fields without a default."""


def sample(variant: type[Plugin], kind: str) -> dict[str, Any]:
    """Returns values for the fields that a variant requires."""
    required = {name for name, field in variant.model_fields.items() if field.is_required()} - {"kind"}
    unknown = required - set(SAMPLE_VALUES)
    assert not unknown, f"add a sample value for {', '.join(sorted(unknown))} to this test"
    return {"kind": kind, **{name: SAMPLE_VALUES[name] for name in required}}


def as_floats(value: Any) -> Any:
    """Returns a JSON value with every whole number as a float, as Kubeflow Pipelines hands it on."""
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if type(value) is int else value


@pytest.mark.parametrize(("folder", "kind", "variant"), VARIANTS)
def test_the_kind_is_the_name_of_the_file(folder: str, kind: str, variant: type[Plugin]) -> None:
    assert variant.__module__ == f"{folder}.{kind}"
    assert get_args(variant.model_fields["kind"].annotation) == (kind,)


@pytest.mark.parametrize(("folder", "kind", "variant"), VARIANTS)
def test_class_and_settings_are_described(folder: str, kind: str, variant: type[Plugin]) -> None:
    assert "__doc__" in vars(variant)
    assert variant.__doc__
    assert variant.__doc__.strip().splitlines()[0].endswith(".")
    silent = [name for name, field in variant.model_fields.items() if not field.description and name != "kind"]
    assert not silent, f"fields without a sentence below them: {', '.join(silent)}"


@pytest.mark.parametrize(("folder", "kind", "variant"), VARIANTS)
def test_settings_survive_the_pipeline(folder: str, kind: str, variant: type[Plugin]) -> None:
    plugin = variant.model_validate(sample(variant, kind))
    carried = plugin.model_dump(mode="json", exclude_none=True)
    restored = variant.model_validate(json.loads(json.dumps(as_floats(carried))))
    assert restored == plugin
    assert json.dumps(restored.model_dump(mode="json", exclude_none=True)) == json.dumps(carried)


@pytest.mark.parametrize(("folder", "kind", "variant"), VARIANTS)
def test_where_nothing_is_allowed_nothing_is_the_default(folder: str, kind: str, variant: type[Plugin]) -> None:
    # The pipeline leaves `None` out, so a setting that is `None` comes back as its default.
    for name, field in variant.model_fields.items():
        if type(None) in get_args(field.annotation):
            assert field.is_required() or field.get_default() is None, name


@pytest.mark.parametrize(("folder", "kind", "variant"), VARIANTS)
def test_unknown_settings_are_refused(folder: str, kind: str, variant: type[Plugin]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        variant.model_validate({**sample(variant, kind), "no_such_setting": 1})


def test_a_recipe_is_imported_without_heavy_libraries() -> None:
    code = f"import sys, lemur.recipe; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded
