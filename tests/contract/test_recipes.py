"""Every recipe of the project can be planned, and an editor's schema knows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from lemur.plan import Plan, check_plan, make_plan
from lemur.recipe_file import load_recipe, schema_text
from lemur.recipe_yaml import RecipeLoader

RECIPES = Path(__file__).parents[2] / "recipes"
PATHS = sorted(RECIPES.glob("*.yaml"))
SCHEMA = RECIPES / "recipe.schema.json"

# Table 8 of arXiv 2310.06830: percentage of the mixture, effective billions of tokens, epochs.
TABLE_8 = {
    "python": ("72.73", "65.46", "2.98"),
    "sql": ("5.15", "4.63", "0.69"),
    "java": ("1.82", "1.64", "0.06"),
    "shell": ("1.82", "1.64", "1.26"),
    "notebook": ("1.71", "1.54", "0.82"),
    "javascript": ("1.69", "1.52", "0.06"),
    "c": ("1.61", "1.44", "0.06"),
    "php": ("1.33", "1.19", "0.06"),
    "cpp": ("1.21", "1.09", "0.06"),
    "others": ("1.73", "1.55", "0.06"),
    "refinedweb": ("6.82", "6.14", None),
    "wikipedia": ("0.64", "0.57", None),
    "books": ("0.41", "0.37", None),
    "arxiv": ("0.41", "0.37", None),
    "stackexchange": ("0.41", "0.37", None),
    "dm-mathematics": ("0.41", "0.37", None),
}


def raw(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)


@pytest.fixture(scope="module")
def lemur_70b() -> Plan:
    return make_plan(load_recipe(RECIPES / "lemur-70b.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_can_be_planned_without_problems(path: Path) -> None:
    check_plan(make_plan(load_recipe(path)))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_and_satisfies_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={SCHEMA.name}\n")
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(raw(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_is_called_as_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_schema_is_fresh() -> None:
    written = SCHEMA.read_text(encoding="utf-8")
    assert written == schema_text(), f"{SCHEMA.name} is stale; run `make schema`"


def test_the_schema_refuses_what_the_recipe_refuses() -> None:
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    wrong = raw(RECIPES / "quickstart.yaml")
    wrong["data"]["sources"][0]["kind"] = "jsonll"
    assert not schema.is_valid(wrong)
    wrong = raw(RECIPES / "quickstart.yaml")
    wrong["pretrain"]["token"] = 1
    assert not schema.is_valid(wrong)


@pytest.mark.parametrize("name", TABLE_8)
def test_the_papers_mixture_is_reproduced_to_two_decimals(lemur_70b: Plan, name: str) -> None:
    source = next(source for source in lemur_70b.sources if source.name == name)
    share, tokens, epochs = TABLE_8[name]
    assert f"{100 * source.share:.2f}" == share
    assert f"{source.tokens / 1e9:.2f}" == tokens
    if epochs is not None:
        assert f"{source.epochs:.2f}" == epochs


def test_the_papers_run_has_its_known_sizes(lemur_70b: Plan) -> None:
    assert lemur_70b.parameters.total == 68_976_648_192
    assert f"{(lemur_70b.pretrain.tokens or 0) / 1e9:.2f}" == "90.00"
    assert lemur_70b.pretrain.steps == 21_458
    assert sum(source.share for source in lemur_70b.sources if source.group == "code") == pytest.approx(10 / 11)
    # Table 1 has 367,817 dialogues; two epochs in batches of 128.
    assert lemur_70b.finetune.steps == -(-2 * 367_817 // 128)
