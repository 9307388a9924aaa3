"""The HTML page of a run: one file that holds all it shows, and needs neither a network nor a script."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from lemur import __version__, units
from lemur.receipt import Receipt
from lemur.report import mixture, overview, scores, training
from lemur.report.contents import Contents, confidence_of, read_contents
from lemur.run_record import TASKS


def write_report(
    receipts: Mapping[str, Receipt],
    *,
    recipe: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    path: Path,
    title: str,
) -> Path:
    """Writes the report of a run as one self-contained HTML file.

    Args:
        receipts: What the run made, by task (`tokens` to `endpoint`); what a run that ended early did not
            make is missing, and the report says so.
        recipe: The recipe as JSON.
        plan: The plan as JSON, where one was made.
        path: File to write; it appears complete or not at all.
        title: Heading of the page, for example the run's name.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written.
    """
    page = render(read_contents(receipts), recipe=recipe, plan=plan, title=title)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def render(contents: Contents, *, recipe: Mapping[str, Any], plan: Mapping[str, Any] | None, title: str) -> str:
    """Returns the report as HTML; everything that comes from the run is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lemur.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        style=resources.files("lemur.report").joinpath("page.css").read_text(encoding="utf-8"),
        version=__version__,
        percent=units.percent,
        badge=overview.badge(contents),
        sentence=overview.lead(contents),
        tiles=overview.tiles(contents),
        score_tiles=overview.score_tiles(contents),
        missing=[TASKS[task] for task in contents.missing],
        problems=contents.problems,
        flow=overview.flow(contents),
        mixture=mixture.mixture_view(contents, plan),
        dialogue_sources=mixture.dialogue_rows(contents),
        panels=training.training_panels(contents),
        cards=scores.metric_cards(contents),
        level=units.percent(confidence_of(contents.receipts), 0),
        rules=scores.rule_rows(contents),
        arrows=scores.has_arrows(contents),
        dialogues=scores.dialogue_views(contents),
        failed=scores.failed_samples(contents),
        commands=overview.commands(contents),
        origins=overview.origins(contents.receipts),
        recipe=_yaml(recipe),
        plan=_yaml(plan) if plan else "",
    )


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)
