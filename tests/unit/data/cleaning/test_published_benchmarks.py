"""Published benchmarks planted into a corpus: every item is found, and clean text is left alone."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pydoc_data.topics
import re
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import pytest

from lemur.data.cleaning.contamination import ContaminationIndex

NGRAM_WORDS = 13
NAMES = ("humaneval", "gsm8k", "bbh", "mmlu", "mint", "intercode")
BEFORE = "The page below was copied from somewhere by a person who did not say where.\n\n"
AFTER = "\n\nThat was all of it, and the page goes on about other things entirely.\n"


@pytest.fixture(scope="module")
def index(shared_benchmarks: Path) -> ContaminationIndex:
    folders = [shared_benchmarks / name for name in ("humaneval", "gsm8k", "bbh", "mmlu")]
    # Transcripts of models that were asked are no part of a benchmark.
    folders += [folder for name in ("mint", "intercode") for folder in shared_benchmarks.glob(f"{name}/[!l]*")]
    benchmarks = {folder.relative_to(shared_benchmarks).as_posix(): str(folder) for folder in folders}
    return ContaminationIndex.build(benchmarks, ngram_words=NGRAM_WORDS)


def humaneval(folder: Path) -> Iterator[str]:
    with gzip.open(folder / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        for item in map(json.loads, lines):
            yield item["prompt"]
            yield item["prompt"] + item["canonical_solution"]
            yield item["test"]


def gsm8k(folder: Path) -> Iterator[str]:
    for item in _lines(folder / "test.jsonl"):
        yield item["question"]
        yield f"Question: {item['question']}\nAnswer: {item['answer']}"
        yield f"Q: {item['question']}\nA: {re.sub('<<.*?>>', '', item['answer'])}"


def bbh(folder: Path) -> Iterator[str]:
    for path in folder.glob("*.json"):
        for item in json.loads(path.read_text(encoding="utf-8"))["examples"]:
            yield item["input"]
            yield f"Q: {item['input']}\nA: {item['target']}"
    for path in folder.glob("cot-prompts/*.txt"):
        yield from re.split(r"\n(?=Q: )", path.read_text(encoding="utf-8"))[1:]


def mmlu(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            question, choices = row[0], row[1:5]
            yield "\n".join([question, *choices])
            for form in ("{}. {}", "({}) {}"):
                yield "\n".join([question, *(form.format(*pair) for pair in zip("ABCD", choices, strict=True))])


def mint(folder: Path) -> Iterator[str]:
    for path in folder.glob("*/test_prompts.json"):
        for item in _lines(path):
            yield item["prompt"]
            if isinstance(item["reference"], str):
                yield f"{item['prompt']}\n{item['reference']}"
    for item in _lines(folder / "mbpp" / "test_prompts.json"):
        yield item["code"]


def intercode(folder: Path) -> Iterator[str]:
    for name in ("nl2bash/*.json", "ctf/*.json", "sql/spider/*.json", "python/mbpp/*.json"):
        for path in folder.glob(name):
            for item in json.loads(path.read_text(encoding="utf-8")):
                yield item["query"]
                if isinstance(item["gold"], str):
                    yield item["gold"]
                    yield f"{item['query']}\n{item['gold']}"


ITEMS: dict[str, Callable[[Path], Iterator[str]]] = {
    "humaneval": humaneval,
    "gsm8k": gsm8k,
    "bbh": bbh,
    "mmlu": mmlu,
    "mint": mint,
    "intercode": intercode,
}
UPPER_CASE = str.maketrans(ascii_lowercase, ascii_uppercase)
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case, wrapped": lambda text: text.translate(UPPER_CASE).replace(" ", "\r\n"),
    "in a comment": lambda text: textwrap.indent(text, "    # ", lambda line: True),
}


def _lines(path: Path) -> Iterator[dict[str, str]]:
    yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def can_be_found(text: str) -> bool:
    """Says whether a text has as many words as an n-gram, and among them one that is no number or single letter."""
    words = re.findall(r"[a-z0-9\x80-\U0010ffff]+", re.sub(r"[\xa0\u2000-\u203f]", " ", text.lower()))
    return len(words) >= NGRAM_WORDS and any(len(word.encode()) > 1 and not word[0].isdigit() for word in words)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_item_with_an_ngram_is_found(
    name: str, form: str, index: ContaminationIndex, shared_benchmarks: Path
) -> None:
    items = [item for item in ITEMS[name](shared_benchmarks / name) if can_be_found(item)]
    corpus = [BEFORE + FORMS[form](item) + AFTER for item in items]

    found = index.find_many(corpus)

    assert len(items) > 300
    assert [item for item, match in zip(items, found, strict=True) if not match] == []
    assert not index.find(BEFORE + AFTER)


def test_clean_text_loses_less_than_one_document_in_a_thousand(index: ContaminationIndex) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    corpus = [path.read_text(encoding="utf-8", errors="replace") for path in sources]
    corpus += pydoc_data.topics.topics.values()
    for distribution in distributions():
        corpus += filter(None, [distribution.read_text("METADATA")])

    found = [match for match in index.find_many(corpus) if match]

    assert len(corpus) > 2000
    assert len(found) / len(corpus) < 0.001, found


def test_few_records_are_too_short_to_be_looked_for(index: ContaminationIndex) -> None:
    too_short = index.num_too_short

    assert {name: too_short[name] for name in ("humaneval", "gsm8k")} == {"humaneval": 0, "gsm8k": 0}
    assert too_short["mmlu"] < 10
    # All of multistep_arithmetic_two is numbers, and some of boolean_expressions a few words.
    assert too_short["bbh"] < 300
