"""The model card of a release, written from receipts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from lemur.receipt import Receipt, digest_of

_ROLES = ("initial", "base", "chat")


def model_card(
    *,
    name: str,
    uri: str,
    chat: Receipt,
    verdict: Receipt,
    receipts: Sequence[Receipt],
    recipe: Mapping[str, Any],
) -> str:
    """Returns the model card as Markdown with the YAML head that the Hugging Face hub reads.

    Args:
        name: Name of the release.
        uri: Where the release stands.
        chat: The tuned model.
        verdict: The gate's verdict on it.
        receipts: All that the release was made from, `chat` and `verdict` among them, parents first.
        recipe: The recipe as JSON; empty where it is not known.
    """
    from jinja2 import Environment, StrictUndefined

    # Nothing is escaped: the card is Markdown, where HTML escapes would be shown.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"whole": _whole, "number": _number, "cell": _cell}
    template = environment.from_string(files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8"))
    by_kind = {receipt.kind: receipt for receipt in receipts}
    models = {receipt.metadata["role"]: receipt for receipt in receipts if receipt.kind == "checkpoint"}
    return template.render(
        name=name,
        uri=uri,
        chat=chat,
        base=models.get("base"),
        tokens=by_kind.get("tokens"),
        dialogues=by_kind.get("dialogues"),
        verdict=verdict.metadata,
        scores=_score_rows(receipts),
        receipts=receipts,
        recipe=recipe,
        recipe_hash=digest_of(dict(recipe)) if recipe else None,
        start=recipe["model"]["start"] if recipe else {"kind": "unknown"},
    )


def _score_rows(receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    """Returns one row for each figure: benchmark, metric, unit, which way is better, and the figure by role."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for receipt in receipts:
        if receipt.kind != "scores":
            continue
        for benchmark, figures in receipt.metadata["figures"].items():
            for metric, figure in figures.items():
                shared = {"benchmark": benchmark, "metric": metric, "figures": dict.fromkeys(_ROLES)}
                row = rows.setdefault((benchmark, metric), {**shared, **figure})
                row["figures"][receipt.metadata["role"]] = figure
    return list(rows.values())


def _whole(value: float) -> str:
    return f"{round(value):,}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else _whole(value)


def _cell(text: object) -> str:
    """Returns a text that stays within its cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
