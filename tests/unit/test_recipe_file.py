"""Recipe files: what they may say, and how a mistake is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.errors import RecipeError
from lemur.recipe import Recipe
from lemur.recipe_file import load_recipe, recipe_hash, recipe_schema, section_parameters
from lemur.recipe_yaml import read_value

RECIPE = """\
name: tiny
storage: artifacts
model:
  start: {kind: random}
  architecture:
    hidden_size: 64
    intermediate_size: 128
    num_layers: 2
    num_heads: 4
    num_kv_heads: 2
    max_position: 128
  tokenizer: {kind: train, vocab_size: 512}
data:
  sequence_length: 64
  sources:
    - kind: jsonl
      name: code
      root: code.jsonl
    - kind: files
      name: more
      root: src
pretrain:
  tokens: 1e6
  batch_tokens: 4096
  learning_rate: 4e-5
finetune:
  max_length: 64
  batch_dialogues: 8
evaluation:
  benchmarks:
    - kind: expressions
gate: {}
serving:
  runtime: {kind: transformers}
hardware:
  backend: {kind: local}
  accelerator: {name: CPU, memory_bytes: 8e9, peak_flops: 1e11}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the recipe with some of its text replaced, and returns the file."""

    def written(*changes: tuple[str, str]) -> Path:
        text = RECIPE
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refusal(path: Path, overrides: dict[str, str] | None = None) -> str:
    """Returns the message that a recipe is refused with, the folder's name left out."""
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, overrides or {})
    return str(refused.value).replace(f"{path.parent}/", "")


def test_a_good_recipe_is_read(write: Write) -> None:
    recipe = load_recipe(write())
    assert recipe.pretrain.tokens == 1_000_000
    assert recipe.pretrain.learning_rate == 4e-5
    assert [source.kind for source in recipe.data.sources] == ["jsonl", "files"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-5", 4e-5), ("90e9", 90e9), ("1_000_000", 1_000_000), ("1.5E+3", 1500.0), (".5", 0.5), ("-3", -3), ("0", 0),
        ("true", True), ("null", None), ("~", None), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("0123", "0123"),
        ("2023-11-01", "2023-11-01"), ("e5", "e5"), ("1e", "1e"), ("4f2a", "4f2a"), ("'4e-5'", "4e-5"), ("_1", "_1"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    read = read_value(text)
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_writes_is_read_back(value: float) -> None:
    assert read_value(repr(value)) == value
    assert isinstance(read_value(repr(value)), float)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("- kind: jsonl", "- kind: jsonll"),
            "tiny.yaml:16: data.sources[0].kind: 'jsonll' is not a known kind (did you mean 'jsonl'?); known: ",
        ),
        (("- kind: jsonl\n      name", "- name"), "tiny.yaml:16: data.sources[0].kind: missing; known: "),
        (
            ("root: code.jsonl", "rot: code.jsonl"),
            "tiny.yaml:18: data.sources[0].rot: no such setting (did you mean 'root'?); known: ",
        ),
        (("      root: src\n", ""), "tiny.yaml:19: data.sources[1].root: missing (Folder that is searched"),
        (
            ("tokens: 1e6", "token: 1e6"),
            "tiny.yaml:23: pretrain.token: no such setting (did you mean 'tokens'?); known: ",
        ),
        (("tokens: 1e6", "tokens: lots"), "tiny.yaml:23: pretrain.tokens: 'lots' should be a valid integer"),
        (("tokens: 1e6", "tokens: 1.5"), "tiny.yaml:23: pretrain.tokens: 1.5 should be a valid integer, got a number"),
        (("tokens: 1e6", "tokens:"), "tiny.yaml:23: pretrain.tokens: an empty value should be a valid integer"),
        (("tokens: 1e6", "tokens: -1"), "tiny.yaml:23: pretrain.tokens: -1 should be greater than 0"),
        (("tokens: 1e6", "tokens: {a: 1}"), "tiny.yaml:23: pretrain.tokens: a mapping should be a valid integer"),
        (
            ("learning_rate: 4e-5", "learning_rate: inf"),
            "tiny.yaml:25: pretrain.learning_rate: 'inf' should be a finite number",
        ),
        (
            ("  learning_rate: 4e-5\n", "  learning_rate: 4e-5\n  precision: fp16\n"),
            "tiny.yaml:26: pretrain.precision: 'fp16' should be 'float32', 'bfloat16' or 'float8'",
        ),
        (("kind: random", "kind: randomly"), "tiny.yaml:4: model.start.kind: 'randomly' is not a known kind"),
        (("name: tiny", "name: Tiny!"), "tiny.yaml:1: name: 'Tiny!' should match pattern"),
        (("storage: artifacts", "storage: 5"), "tiny.yaml:2: storage: 5 should be a valid string; put quotes"),
        (("gate: {}", "gate: 3"), "tiny.yaml:32: gate: 3 should be a mapping of settings"),
        (("- kind: expressions", "[]"), "tiny.yaml:30: evaluation.benchmarks: a list should have at least 1 item"),
        (("num_heads: 4", "num_heads: 5"), "tiny.yaml:5: model.architecture: hidden_size 64 is not a multiple of"),
        (
            ("  sequence_length: 64", "  sequence_length: 256"),
            "tiny.yaml:14: data.sequence_length 256 is longer than model.architecture.max_position 128",
        ),
        (("gate: {}", "gate: {rules: [{benchmark: x, metric: y}]}"), "tiny.yaml:32: gate.rules[0]: a rule needs"),
        (("finetune:", "finetunes:"), "tiny.yaml:26: finetunes: no such setting (did you mean 'finetune'?); known: "),
        (("gate: {}", "gate: {}\nname: again"), "tiny.yaml:33: name: stands here a second time; the first is on"),
        (("gate: {}", "gate: {"), "not valid YAML"),
        (("gate: {}", "gate: !!python/name:os.system"), "tiny.yaml:32: not valid YAML: could not determine"),
        (("gate: {}", "gate: \x07"), "tiny.yaml:32: not valid YAML: the character '\\x07'"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_its_place_and_what_is_valid(
    write: Write, change: tuple[str, str], expected: str
) -> None:
    assert expected in refusal(write(change))


def test_every_mistake_is_listed_in_the_order_of_the_file(write: Write) -> None:
    message = refusal(
        write(("name: tiny", "name: 3"), ("num_layers: 2", "num_layers: 0"), ("- kind: files", "- kind: folder"))
    )
    lines = [line.split(":")[1] for line in message.splitlines()]
    assert lines == ["1", "8", "19"]


def test_a_value_from_a_merged_mapping_is_found_where_it_stands(write: Write) -> None:
    # The anchor's own line is where the value has to be mended.
    message = refusal(
        write(
            ("tokens: 1e6\n  batch_tokens: 4096", "<<: *shared\n  batch_tokens: 4096"),
            ("gate: {}", "gate: {}"),
            ("  tokenizer: {kind: train, vocab_size: 512}", "  tokenizer: &shared {tokens: -5, kind: train}"),
        )
    )
    assert "tiny.yaml:12: pretrain.tokens: -5 should be greater than 0" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "this is an empty file"),
        ("- a\n", "this is a list"),
        ("hello\n", "this is a single value, 'hello'"),
        ("a: 1\n---\nb: 2\n", "not valid YAML: but found another document"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert expected in refusal(path)


def test_a_missing_file_is_answered_with_its_neighbours(write: Write) -> None:
    path = write()
    assert refusal(path.with_name("tin.yaml")) == (
        f"tin.yaml: no such recipe file (did you mean 'tiny.yaml'?); in {path.parent}: tiny.yaml"
    )
    assert "there is no folder" in refusal(path.parent / "nowhere" / "tiny.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as a text file" in refusal(tmp_path / "recipe.yaml")
    assert "cannot be read as a text file" in refusal(tmp_path)


def test_overrides_replace_and_add_values(write: Write) -> None:
    overrides = {
        "pretrain.tokens": "2_000_000",
        "data.sources[1].weight": "3",
        "data.sources.0.max_epochs": "2",
        "finetune.method.kind": "lora",
        "gate.rules": "[{benchmark: expressions, metric: accuracy, minimum: 0.5}]",
    }
    recipe = load_recipe(write(), overrides)
    assert recipe.pretrain.tokens == 2_000_000
    assert recipe.data.sources[1].weight == 3
    assert recipe.data.sources[0].max_epochs == 2
    assert recipe.finetune.method.kind == "lora"
    assert recipe.gate.rules[0].minimum == 0.5


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("pretrain.tokens", "lots", "--set pretrain.tokens=lots: 'lots' should be a valid integer"),
        ("pretrian.tokens", "1", "--set pretrian.tokens=1: pretrian: no such setting (did you mean 'pretrain'?)"),
        ("pretrain.token", "1", "--set pretrain.token=1: no such setting (did you mean 'tokens'?)"),
        ("pretrain.tokens.x", "1", "pretrain.tokens is 1000000.0 and has nothing inside"),
        ("data.sources[2].weight", "1", "data.sources has 2 entries"),
        ("data.sources.code.weight", "1", "data.sources is a list, with entries [0]"),
        ("pretrain[0]", "1", "pretrain is a mapping of settings"),
        ("pretrain..tokens", "1", "'pretrain..tokens' is not a key"),
        ("", "1", "'' is not a key"),
        ("name", "[", "'[' is not a YAML value"),
        ("data.sequence_length", "256", "--set data.sequence_length=256: data.sequence_length 256 is longer than"),
    ],
)
def test_a_wrong_override_is_named(write: Write, key: str, value: str, expected: str) -> None:
    assert expected in refusal(write(), {key: value})


def test_the_hash_knows_what_is_said_and_not_how(write: Write, tmp_path: Path) -> None:
    recipe = load_recipe(write())
    other = tmp_path / "other.yaml"
    other.write_text(
        "# a comment\n" + RECIPE.replace("1e6", "1000000").replace("{kind: random}", "{kind: random, seed: 0}")
    )
    assert recipe_hash(load_recipe(other)) == recipe_hash(recipe)
    assert recipe_hash(load_recipe(write(), {"pretrain.seed": "1"})) != recipe_hash(recipe)


def test_there_is_one_parameter_for_each_field_of_a_recipe(write: Write) -> None:
    parameters = section_parameters(load_recipe(write()))
    assert set(parameters) == set(Recipe.model_fields)
    assert "null" not in json.dumps(parameters)
    assert Recipe.model_validate(parameters) == load_recipe(write())


def test_the_schema_describes_every_setting() -> None:
    schema = recipe_schema()
    silent = [
        f"{name}.{key}"
        for name, definition in schema["$defs"].items()
        for key, value in definition.get("properties", {}).items()
        if "description" not in value
    ]
    assert not silent
    assert schema["additionalProperties"] is False
