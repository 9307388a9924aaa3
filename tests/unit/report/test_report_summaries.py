"""The short accounts: a table for the terminal, JSON for programs, Markdown for the Kubeflow UI."""

from __future__ import annotations

import io
import json

import pytest
from report_run import FIGURES
from rich.console import Console

from lemur.receipt import Receipt
from lemur.report import markdown_summary, summary, summary_table
from lemur.units import NARROW, count, digits, duration, percent, size


def test_summary_has_every_score_and_names_what_is_missing(receipts: dict[str, Receipt]) -> None:
    found = json.loads(json.dumps(summary(receipts)))
    chat = FIGURES["chat"]["expressions"]["accuracy"]
    assert found["scores"]["expressions"]["accuracy"]["chat"] == {
        name: chat[name] for name in ("value", "low", "high", "num_samples")
    }
    assert found["verdict"]["outcome"] == "pass"
    assert found["missing"] == []
    assert summary({"tokens": receipts["tokens"]})["missing"] == [task for task in receipts if task != "tokens"]


def test_summary_table_has_a_row_for_each_figure_and_fits_a_terminal(receipts: dict[str, Receipt]) -> None:
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(summary_table(receipts))
    text = console.export_text().replace(NARROW, " ")
    for expected in ("2.402", "2.317 to 2.487", "73.5 %", "67.4 to 79.6 %", "\u2191 accuracy", "bits per byte", "95 %"):
        assert expected in text
    assert summary_table({}).row_count == 0


def test_markdown_tells_each_kind_of_result(receipts: dict[str, Receipt]) -> None:
    texts = {task: markdown_summary(receipt).replace(NARROW, " ") for task, receipt in receipts.items()}
    assert all(receipts[task].digest in text for task, text in texts.items())
    assert "| expressions | accuracy | 73.5 % | 67.4 to 79.6 % | share of problems | higher |" in texts["scores_chat"]
    assert "is at least 0.6" in texts["verdict"]
    assert "| final\\_loss | 2.613 |" in texts["base"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(0), "0"),
        (count(9_999), "9,999"),
        (count(1, "steps"), "1 step"),
        (count(12_345, "tokens"), "12.3 k tokens"),
        (count(999_999), "1.00 M"),
        (count(70e9, "parameters"), "70.0 B parameters"),
        (size(12), "12 bytes"),
        (size(3_400_000), "3.40 MB"),
        (size(140e9), "140 GB"),
        (duration(0.0412), "41 ms"),
        (duration(8.24), "8.2 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(125), "2 min 05 s"),
        (duration(3 * 3600 + 12 * 60), "3 h 12 min"),
        (duration(100 * 3600), "4 d 4 h"),
        (digits(0.03124), "0.0312"),
        (digits(12_345.6), "12,346"),
        (digits(-2.5), "\u22122.50"),
        (percent(0.94), "94.0 %"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text.replace(NARROW, " ") == expected
