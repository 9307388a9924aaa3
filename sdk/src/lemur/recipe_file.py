"""Reading recipe files, and handing recipes on: to the pipeline, to a digest, to an editor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lemur.errors import RecipeError
from lemur.receipt import digest_of
from lemur.recipe import Recipe
from lemur.recipe_errors import explain
from lemur.recipe_yaml import apply_overrides, read_document

_NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})


def load_recipe(path: str | Path, overrides: Mapping[str, str] = _NO_OVERRIDES) -> Recipe:
    """Reads a recipe file.

    Args:
        path: The YAML file.
        overrides: Value, as YAML, by dotted key: `{"pretrain.tokens": "1e6", "data.sources[0].weight": "2"}`.

    Raises:
        RecipeError: The file is missing, is not YAML, or says what a recipe cannot say. The message has every
            error of the file, each with its line, key, value and what is valid.
    """
    document = read_document(Path(path))
    keys = apply_overrides(document.data, overrides)
    try:
        return Recipe.model_validate(document.data)
    except ValidationError as error:
        raise RecipeError(explain(error, document, overrides, keys)) from None


def section_parameters(recipe: Recipe) -> dict[str, Any]:
    """Returns one JSON value for each field of the recipe: the pipeline's parameters.

    `None` is left out, since Kubeflow Pipelines refuses it inside a value; it is the default wherever it is
    allowed. Whole numbers inside come back from Kubeflow as floats, which validation turns back.
    """
    return recipe.model_dump(mode="json", exclude_none=True)


def recipe_hash(recipe: Recipe) -> str:
    """Returns the SHA-256 of all that a recipe says, defaults included; layout and comments do not count."""
    return digest_of(section_parameters(recipe))


def recipe_schema() -> dict[str, Any]:
    """Returns the JSON schema of recipe files, for editors: every setting, with its sentence and its default."""
    schema = Recipe.model_json_schema()
    for definition in schema["$defs"].values():
        kind = definition.get("properties", {}).get("kind")
        if kind and "description" in definition:
            # Shown where an editor offers the kinds.
            kind["description"] = definition["description"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Lemur recipe"}


def schema_text() -> str:
    """Returns the schema as it is kept in `recipes/recipe.schema.json`."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
