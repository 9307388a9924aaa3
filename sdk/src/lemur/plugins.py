"""Variants are files: a module dropped into a plugin folder is found, and no list has to be edited.

A plugin folder is a package such as `lemur.data.sources`. Each module in it defines one subclass of
`Plugin` whose `kind` is the module's own name. Other distributions add variants through an entry point
in the group of the folder's name (`[project.entry-points."lemur.data.sources"]`).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, numbers are finite, each field's sentence stands below it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Plugin(Section):
    """Base of every variant a recipe can choose with `kind`."""

    kind: str
    """Which variant this is; the name of the file that implements it."""

    abstract: ClassVar[bool] = True
    """Whether the class is the base of a folder rather than one of its variants."""

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.abstract = abstract


@functools.cache
def discover(folder: str) -> dict[str, type[Plugin]]:
    """Imports a plugin folder and returns its variants.

    Args:
        folder: Dotted name of the package, for example `lemur.data.sources`.

    Returns:
        Variant class by `kind`, sorted by name.

    Raises:
        TypeError: A module without exactly one variant, or whose `kind` is not its own name.
    """
    modules = {
        name: importlib.import_module(f"{folder}.{name}")
        for _, name, _ in pkgutil.iter_modules(importlib.import_module(folder).__path__)
    }
    modules.update({point.name: importlib.import_module(point.value) for point in entry_points(group=folder)})
    found = {}
    for name, module in sorted(modules.items()):
        variants = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Plugin)
            and value.__module__ == module.__name__
            and not value.abstract
        ]
        if len(variants) != 1:
            raise TypeError(f"{module.__name__} must define exactly one plugin, and defines {len(variants)}")
        (declared,) = get_args(variants[0].model_fields["kind"].annotation) or (None,)
        if declared != name:
            raise TypeError(f"{module.__name__} must declare `kind: Literal[{name!r}]`, and declares {declared!r}")
        found[name] = variants[0]
    return found


class OneOf:
    """Annotation that validates a mapping with a `kind` into the variant of that name.

    `Annotated[Plugin, OneOf("lemur.data.sources")]` is the tagged union of whatever that folder holds. The
    folder is named, not imported, so that a recipe depends on no stage.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Builds the union, one branch for each variant; the JSON schema for editors follows from it."""
        choices = {kind: handler.generate_schema(variant) for kind, variant in discover(self.folder).items()}
        return core_schema.tagged_union_schema(choices, discriminator="kind")
