"""The compiled pipelines, the components and the recipe say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from components.images import IMAGES_FILE, image
from lemur.recipe import Recipe
from pipelines.compile import COMPILED, compile_all, stale

ROOT = Path(__file__).parents[2]
COMPONENTS = sorted(path for path in (ROOT / "components").glob("*.py") if path.name != "images.py")


def test_compiled_pipelines_are_fresh() -> None:
    assert stale() == [], "run `make compile`"


def test_a_changed_compiled_pipeline_is_called_stale(tmp_path: Path) -> None:
    (written,) = compile_all(tmp_path)
    assert stale(tmp_path) == []
    written.write_text(written.read_text(encoding="utf-8") + "# edited by hand\n", encoding="utf-8")
    (tmp_path / "left_over.yaml").write_text("", encoding="utf-8")
    assert stale(tmp_path) == [written.name, "left_over.yaml"]


def test_the_pipeline_takes_exactly_the_fields_of_a_recipe() -> None:
    spec = next(yaml.safe_load_all((COMPILED / "base_to_agent.yaml").read_text(encoding="utf-8")))
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == set(Recipe.model_fields)


def test_steps_are_ordered_by_what_they_hand_on() -> None:
    spec = next(yaml.safe_load_all((COMPILED / "base_to_agent.yaml").read_text(encoding="utf-8")))
    for name, task in spec["root"]["dag"]["tasks"].items():
        producers = {
            source["taskOutputArtifact"]["producerTask"]
            for source in task["inputs"].get("artifacts", {}).values()
            if "taskOutputArtifact" in source
        }
        assert set(task.get("dependentTasks", [])) == producers, name
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipelines").glob("*.py"))
    assert ".after(" not in sources


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_component_is_a_signature_and_a_call(path: Path) -> None:
    (function,) = [
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    assert function.name == path.stem
    body = [
        node for node in function.body if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant)
    ]
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    assert [(node.module, [alias.name for alias in node.names]) for node in imports] == [("lemur", ["stages"])]
    calls = re.findall(rf"stages\.{path.stem}\(", ast.unparse(function))
    assert len(calls) == 1
    assert len(body) <= 5


def test_an_unknown_image_is_answered_with_the_known_ones() -> None:
    known = yaml.safe_load(IMAGES_FILE.read_text(encoding="utf-8"))["images"]
    with pytest.raises(ValueError, match=", ".join(known)):
        image("trian")


def test_every_image_installs_extras_that_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, entry in yaml.safe_load(IMAGES_FILE.read_text(encoding="utf-8"))["images"].items():
        assert set(entry["extras"]) <= set(extras), name
