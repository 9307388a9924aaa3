"""The page shows what the receipts say, whatever is missing and whatever a model wrote."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_run import FIGURES, VERDICT, SyntheticRun, complete_run, report_of, tokens_metadata

from lemur.receipt import Receipt
from lemur.report import write_report
from lemur.units import NARROW, digits, interval, percent, size

HOSTILE = '<script>alert("x")</script><img src=https://example.org/x>'
MIXTURE_COUNTS = (
    "documents",
    "tokens",
    "cut_documents",
    "duplicates",
    "near_duplicates",
    "contaminated",
    "unreadable",
    "empty_documents",
    "heldout_documents",
    "heldout_copies",
)
VOID_TAGS = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags balance, and keeps the visible text and what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "poster")]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def numbers_in(svg: str) -> list[float]:
    attributes = re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy|width|height|points)="([^"%]*)"', svg)
    return [float(number) for attribute in attributes for number in re.split("[ ,]", attribute)]


@pytest.fixture(scope="module")
def html(receipts: dict[str, Receipt], tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_of(receipts, tmp_path_factory.mktemp("report"))


def test_report_shows_every_number_that_was_put_in(html: str) -> None:
    text = Page(html).text.replace(NARROW, " ")
    expected = [
        "3.15 M parameters",
        "3,147,008",
        "2.46 M tokens",
        "2,457,600",
        "9,123 tokens/s",
        "31.7 %",
        "4 min 28 s",
    ]
    for source in tokens_metadata()["sources"].values():
        expected += [f"{source[name]:,}" for name in MIXTURE_COUNTS]
        expected += [size(source["bytes"]), size(source["heldout_bytes"]), percent(source["weight"])]
    expected += ["2,345", "4,690", "2.613 nats", "0.2071 nats", "120, 212", "float32", "1 min 02 s", "312,000"]
    for figures in FIGURES.values():
        for by_metric in figures.values():
            for value in by_metric.values():
                share = value["unit"].startswith("share")
                ends = interval(value["low"], value["high"], value["unit"])
                expected += [
                    percent(value["value"]) if share else f"{value['value']:.3f}",
                    ends,
                    str(value["num_samples"]),
                ]
    expected += [rule["sentence"] for rule in VERDICT["rules"]]
    expected += ["at least 60 %", "at most 0.25 worse than base", "better than initial", "412 ms", "83.9 tokens/s"]
    missing = [number for number in expected if number.replace(NARROW, " ") not in text]
    assert missing == []


def test_report_says_what_training_ran_with_and_what_it_took(html: str) -> None:
    page = html.replace(NARROW, " ")
    for name, figure in (("waiting for data", "0.4 %"), ("peak memory", "1.87 GB"), ("skipped steps", "2")):
        assert f"<dt>{name}</dt><dd>{figure}</dd>" in page
    for name, value in (
        ("engine", "deepspeed"),
        ("zero stage", "2"),
        ("attention", "sdpa"),
        ("optimizer", "AdamW (fused)"),
    ):
        assert f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in page
    assert "liger" not in page
    assert "Skipped, because the batch would have done harm: step 17, 230" in page
    # Two interruptions and two skipped steps, each marked in three charts of two sizes; the tuning had none.
    curves = "".join(re.findall('<svg class="line.*?</svg>', html))
    assert curves.count('class="mark"') == curves.count('class="cross"') == 12
    assert curves.count(">resumed at 120</text>") == 6
    assert "learning rate, in 1e-5" in curves


def test_old_receipts_and_logs_without_the_newer_figures_are_shown_as_they_are(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "store")
    log = b'{"step": 4, "tokens": 64, "loss": 2.0}\n{"step": 8, "tokens": 128, "loss": null}\n'
    run.keep("base", "checkpoint", {"metrics.jsonl": log}, metadata={"steps": 8, "zero_stage": 0})
    html = report_of(run.receipts, tmp_path)
    assert "loss, nats per token" in html
    for absent in ("waiting for data", "peak memory", "learning rate", "tokens per second", "skipped", "engine"):
        assert absent not in Page(html).text


def test_report_counts_realised_shares_over_the_tokens_of_the_run(
    html: str, receipts: dict[str, Receipt], tmp_path: Path
) -> None:
    assert "tokens that pretraining read," in html
    # 9.1 % of 4,800 sequences are documentation, 436.8: the stream is within one of that.
    metadata = tokens_metadata()["sources"]["documentation"]
    text = Page(html).text.replace(NARROW, " ")
    epochs = [digits(number / metadata["sequences"], 2) for number in (436, 437)]
    assert any(f"223 k ({passes}\u00d7)" in text for passes in epochs)
    only_mixed = {"tokens": receipts["tokens"]}
    assert "as many sequences as are stored hold," in report_of(only_mixed, tmp_path)
    plan = {"pretrain": {"num_sequences": 48}}
    path = write_report(only_mixed, recipe={}, plan=plan, path=tmp_path / "planned.html", title="planned")
    planned = path.read_text(encoding="utf-8")
    assert "tokens that pretraining was to read," in planned
    assert any(f"({digits(number / metadata['sequences'], 2)}\u00d7)" in planned for number in (4, 5))


def test_report_shows_the_lengths_of_all_documents_and_of_each_source(html: str) -> None:
    metadata = tokens_metadata()["sources"]
    charts = re.findall('<svg class="lengths".*?</svg>', html)
    assert len(charts) == 3
    code = metadata["standard-library"]["token_lengths"]
    text = metadata["documentation"]["token_lengths"]
    for chart, counts in zip(charts, ([a + b for a, b in zip([*code, 0], text, strict=True)], code, text), strict=True):
        assert f"512 to 1{NARROW}k tokens \u00b7 {counts[9]}{NARROW}documents" in chart
        assert chart.count('class="bar"') == len(counts) - next(i for i, count in enumerate(counts) if count)


def test_report_says_which_filters_left_documents_out_and_which_records_cannot_be_read(html: str) -> None:
    text = Page(html).text
    assert "language 1,904, lines 38" in text
    assert "documentation: api/old.md: not UTF-8 at byte 17" in text


def test_mixture_of_one_source_has_no_sum_and_of_many_folds_their_charts(tmp_path: Path) -> None:
    def page(num_sources: int) -> str:
        metadata = tokens_metadata()
        one = metadata["sources"]["documentation"] | {"weight": 1 / num_sources}
        metadata["sources"] = {f"source-{number}": one for number in range(num_sources)}
        run = SyntheticRun(tmp_path / str(num_sources))
        run.keep("tokens", "tokens", {}, metadata=metadata)
        return report_of(run.receipts, tmp_path)

    assert "all sources" not in page(1)
    many = page(9)
    assert many.count('<svg class="lengths"') == 10
    assert "The other sources (4)" in many


def test_report_shows_origin_recipe_and_commands(html: str, receipts: dict[str, Receipt]) -> None:
    text = Page(html).text
    for receipt in receipts.values():
        assert receipt.digest in text
        assert receipt.uri in text
    assert "learning_rate: 0.001" in text
    assert "lemur serve work/runs/quickstart" in text
    assert "lemur chat http://127.0.0.1:8000/v1" in text
    assert "token mixture, initial model" in text


def test_report_loads_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert page.loads == []
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_what_models_and_users_wrote_is_escaped_everywhere(tmp_path: Path) -> None:
    receipts = complete_run(tmp_path / "store", hostile=HOSTILE)
    recipe = {"name": HOSTILE}
    path = write_report(receipts, recipe=recipe, plan=None, path=tmp_path / "report.html", title=HOSTILE)
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(page.tags)
    # Heading and title, recipe, dialogue, failed samples: each shows the text itself.
    assert page.text.count(HOSTILE) >= 5


def test_what_an_unreadable_record_says_is_escaped(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "store")
    metadata = tokens_metadata()
    metadata["sources"]["documentation"]["unreadable_first"] = [f"a.jsonl:1: {HOSTILE}"]
    run.keep("tokens", "tokens", {}, metadata=metadata)
    page = Page(report_of(run.receipts, tmp_path))
    assert not {"script", "img"} & set(page.tags)
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "last", ["", "tokens", "initial", "base", "chat", "scores_initial", "scores_chat", "verdict", "release"]
)
def test_report_of_a_run_that_ended_early_says_what_is_missing(
    last: str, receipts: dict[str, Receipt], tmp_path: Path
) -> None:
    tasks = list(receipts)
    reached = tasks[: tasks.index(last) + 1] if last else []
    text = Page(report_of({task: receipts[task] for task in reached}, tmp_path)).text
    assert "first dialogues with the release" in text
    assert ("Ended before the gate" in text) == ("verdict" not in reached)
    assert ("Tuning" in text) == ("chat" in reached)
    assert ("lemur serve" in text) == ("release" in reached)


def test_refused_model_has_its_reasons_at_the_top_and_no_commands(receipts: dict[str, Receipt], tmp_path: Path) -> None:
    verdict = json.loads(json.dumps(VERDICT)) | {"outcome": "fail", "accepted": False}
    verdict["rules"][2] |= {"outcome": "fail", "sentence": "0.735 is below the minimum of 0.9"}
    refused = {task: receipt for task, receipt in receipts.items() if task not in ("release", "endpoint")}
    refused["verdict"] = receipts["verdict"].model_copy(update={"metadata": verdict})
    text = Page(report_of(refused, tmp_path)).text
    assert text.index("Refused by the gate") < text.index("0.735 is below the minimum of 0.9") < text.index("What ran")
    assert "2 of 3" in text
    assert "lemur serve" not in text


@pytest.mark.parametrize(
    ("accepted", "expected"), [(True, "cannot tell, accepted"), (False, "cannot tell, not published")]
)
def test_gate_that_cannot_tell_says_so(
    accepted: bool, expected: str, receipts: dict[str, Receipt], tmp_path: Path
) -> None:
    verdict = json.loads(json.dumps(VERDICT)) | {"outcome": "cannot_tell", "accepted": accepted}
    verdict["rules"][0]["outcome"] = "cannot_tell"
    changed = receipts | {"verdict": receipts["verdict"].model_copy(update={"metadata": verdict})}
    assert expected in Page(report_of(changed, tmp_path)).text


def test_damaged_result_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    receipts = complete_run(tmp_path / "store")
    damaged = Path(receipts["base"].uri.removeprefix("file://")) / "metrics.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    text = Page(report_of(receipts, tmp_path)).text
    assert "Could not be read" in text
    assert "metrics.jsonl" in text
    assert "Tuning" in text
    assert "73.5" in text


def test_report_replaces_the_one_before_and_leaves_nothing_else(receipts: dict[str, Receipt], tmp_path: Path) -> None:
    report_of({}, tmp_path)
    assert "3,147,008" in report_of(receipts, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "lines",
    [
        ['{"step": 5, "loss": 2.5, "tokens_per_second": 10}'],
        ['{"step": 5, "loss": 0.0, "tokens_per_second": 0.0}'],
        ['{"step": 5, "loss": 2.5}', '{"step": 6, "loss": NaN}', '{"step": 7, "loss": Infinity}'],
        ['{"step": 5, "loss": NaN}'],
        [],
    ],
)
def test_short_and_spoilt_curves_have_sound_charts(lines: list[str], tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "store")
    run.keep("base", "checkpoint", {"metrics.jsonl": "\n".join(lines).encode()}, metadata={"resumed_at_steps": [3, 99]})
    html = report_of(run.receipts, tmp_path)
    Page(html)
    for svg in re.findall("<svg.*?</svg>", html):
        assert all(math.isfinite(number) for number in numbers_in(svg))
    assert ("not a number" in html) == any("NaN" in line for line in lines)
    assert ("<polyline" in html) == any('"loss": 2.5' in line or '"loss": 0.0' in line for line in lines)


def test_steps_repeated_after_an_interruption_are_drawn_once(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "store")
    lines = [{"step": step, "loss": 3.0 - step / 10} for step in (1, 2, 3, 2, 3, 4)]
    run.keep("base", "checkpoint", {"metrics.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    (points, *_) = re.findall('<polyline[^>]*points="([^"]*)"', report_of(run.receipts, tmp_path))
    across = [float(point.split(",")[0]) for point in points.split()]
    assert len(across) == 4
    assert across == sorted(set(across))
