"""What a recipe refuses, and that it survives the pipeline's way of carrying numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.errors import RecipeError
from lemur.recipe import Recipe
from lemur.recipe_file import load_recipe, section_parameters

RECIPES = Path(__file__).parents[2] / "recipes"


def as_kubeflow_carries(value: Any, *, inside: bool = False) -> Any:
    """Returns a JSON value as a step receives it: whole numbers inside mappings and lists are floats."""
    if isinstance(value, dict):
        return {key: as_kubeflow_carries(item, inside=True) for key, item in value.items()}
    if isinstance(value, list):
        return [as_kubeflow_carries(item, inside=True) for item in value]
    return float(value) if inside and type(value) is int else value


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_survives_the_pipeline(path: Path) -> None:
    recipe = load_recipe(path)
    carried = json.loads(json.dumps(as_kubeflow_carries(section_parameters(recipe))))
    restored = Recipe.model_validate(carried)
    assert restored == recipe
    # Equality alone would let 3.0 pass for 3, and the key of a result be another one.
    assert json.dumps(section_parameters(restored)) == json.dumps(section_parameters(recipe))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**53 - 1), tokens=st.integers(1, 10**13), rate=st.floats(1e-9, 1.0))
def test_numbers_survive_the_pipeline_exactly(seed: int, tokens: int, rate: float) -> None:
    overrides = {"data.seed": str(seed), "pretrain.tokens": str(tokens), "pretrain.learning_rate": repr(rate)}
    recipe = load_recipe(RECIPES / "quickstart.yaml", overrides)
    assert recipe.data.seed == seed
    carried = json.loads(json.dumps(as_kubeflow_carries(section_parameters(recipe))))
    assert section_parameters(Recipe.model_validate(carried)) == section_parameters(recipe)


def test_a_seed_that_a_float_cannot_hold_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.seed"):
        load_recipe(RECIPES / "quickstart.yaml", {"data.seed": str(2**53)})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"data.sources[1].name": "python-library"}, "two sources have the name 'python-library'"),
        ({"data.sources[0].group": "null"}, "source 'python-library' names no group; groups: code, text"),
        ({"data.groups": "{code: 1}"}, r"groups with a weight \(code\) and groups named by sources \(code, text\)"),
        ({"data.groups": "{code: 1, text: 1, math: 1}"}, "must be the same"),
        ({"model.architecture.num_kv_heads": "3"}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"pretrain.batch_tokens": "4000"}, "pretrain.batch_tokens 4000 must be a multiple of sequence_length 256"),
        ({"hardware.devices_per_node": "3"}, "must be a multiple of"),
        (
            {"finetune.max_length": "4096"},
            "finetune.max_length 4096 is longer than model.architecture.max_position 512",
        ),
        ({"evaluation.benchmarks": "[{kind: humaneval}, {kind: humaneval}]"}, "benchmark 'humaneval' is listed twice"),
        (
            {"gate.rules[0].benchmark": "mmlu"},
            "gate rule on benchmark 'mmlu', which evaluation.benchmarks does not list",
        ),
        ({"gate.rules": "[{benchmark: humaneval, metric: pass_at_1}]"}, "a rule needs"),
        ({"pretrain.weight_decay": ".nan"}, "should be"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(overrides: dict[str, str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(RECIPES / "quickstart.yaml", overrides)
