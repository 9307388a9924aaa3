"""Which container image a step runs in, read from `images/images.yaml` when the pipeline is compiled."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import yaml

IMAGES_FILE = Path(__file__).parents[1] / "images" / "images.yaml"


@functools.cache
def _table() -> dict[str, Any]:
    return dict(yaml.safe_load(IMAGES_FILE.read_text(encoding="utf-8")))


def image(name: str) -> str:
    """Returns the reference of an image.

    Args:
        name: Key below `images` in the file, for example `train`.

    Raises:
        ValueError: No image has that name; the message lists the ones there are.
    """
    table = _table()
    if name not in table["images"]:
        raise ValueError(f"no image {name!r} in {IMAGES_FILE.name}; there are: {', '.join(table['images'])}")
    prefix = os.environ.get("LEMUR_IMAGE_PREFIX", "")
    return f"{prefix}{table['images'][name]['reference']}:{table['version']}"
