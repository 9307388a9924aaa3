"""Filters: which documents each keeps, and how they are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lemur.data.filter import Filter
from lemur.data.filters.lines import LinesFilter
from lemur.data.reading.documents import Dropped, Tally, read_documents
from lemur.data.source import Source
from lemur.errors import RecipeError
from lemur.recipe import DataSection


def source(*filters: dict[str, Any], **fields: Any) -> Source:
    data = {"sources": [{"name": "code", "filters": list(filters), **fields}], "sequence_length": 8}
    return DataSection.model_validate(data).sources[0]


def asked(**fields: Any) -> Filter:
    return source(fields, kind="python_docs").filters[0]


def test_length_is_counted_in_characters() -> None:
    between = asked(kind="length", minimum_characters=2, maximum_characters=4)

    assert [between.keeps("ü" * length, {}) for length in range(1, 6)] == [False, True, True, True, False]
    assert asked(kind="length").keeps("x" * 10**6, {})


@pytest.mark.parametrize(
    ("value", "all_right", "any_right"),
    [
        ("mit", True, True),
        ("gpl", False, False),
        (["mit", "apache-2.0"], True, True),
        (["mit", "gpl"], False, True),
        (["gpl"], False, False),
        (["mit", None], True, True),
        (3, True, True),
        (True, True, True),
        (False, False, False),
        ({"mit": 1}, False, False),
    ],
)
def test_a_field_has_one_of_the_values_or_all_of_its_own_are(value: Any, all_right: bool, any_right: bool) -> None:
    values = ["mit", "apache-2.0", "3", "true"]

    assert asked(kind="field", field="licence", values=values).keeps("x", {"licence": value}) is all_right
    either = asked(kind="field", field="licence", values=values, match="any")
    assert either.keeps("x", {"licence": value}) is any_right


@pytest.mark.parametrize("fields", [{}, {"licence": None}, {"licence": []}, {"licence": [None]}])
def test_a_field_that_is_missing_drops_the_document_unless_it_is_to_be_kept(fields: dict[str, Any]) -> None:
    assert not asked(kind="field", field="licence", values=["mit"]).keeps("x", fields)
    assert asked(kind="field", field="licence", values=["mit"], missing="keep").keeps("x", fields)


def test_a_field_may_be_inside_an_object_or_have_a_dot_in_its_name() -> None:
    inner = asked(kind="field", field="meta.set", values=["wiki"])

    assert inner.keeps("x", {"meta": {"set": "wiki"}})
    assert inner.keeps("x", {"meta.set": "wiki"})
    assert not inner.keeps("x", {"meta": {"set": "web"}})
    assert not inner.keeps("x", {"meta": "wiki"})


ENGLISH = "The committee shall meet at least twice a year and report to the general assembly on what it has done."
GERMAN = "Der Ausschuss tritt mindestens zweimal im Jahr zusammen und berichtet der Versammlung über seine Arbeit."
CHINESE = "委员会每年至少举行两次会议并向大会报告其工作。本条约自批准之日起生效。"


def test_languages_are_told_apart() -> None:
    english = asked(kind="language", languages=["en"])
    both = asked(kind="language", languages=["en", "de"], minimum_probability=0.9)

    assert [english.keeps(text, {}) for text in (ENGLISH, GERMAN, CHINESE)] == [True, False, False]
    assert [both.keeps(text, {}) for text in (ENGLISH, GERMAN, CHINESE)] == [True, True, False]
    assert not english.keeps("1234 5678", {})
    assert asked(kind="language", languages=["en"], minimum_probability=0).keeps("1234 5678", {})


def test_only_the_beginning_of_a_text_says_its_language() -> None:
    assert asked(kind="language", languages=["de"], characters=len(GERMAN)).keeps(GERMAN + ENGLISH * 20, {})
    assert not asked(kind="language", languages=["de"], characters=2000).keeps(GERMAN + ENGLISH * 20, {})


def test_a_language_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match=r"does not know 'qqq'; it knows .*, de, .*, en, "):
        asked(kind="language", languages=["en", "qqq"]).keeps(ENGLISH, {})
    with pytest.raises(ValidationError, match="languages"):
        asked(kind="language", languages=["English"])


def test_lines_are_judged_by_mean_longest_number_and_letters() -> None:
    usual = asked(kind="lines")

    assert usual.keeps("def f(x):\n    return x\n", {})
    assert usual.keeps(("x" * 100 + "\n") * 5, {})
    assert not usual.keeps(("x" * 101 + "\n") * 5, {})
    assert usual.keeps("x" * 1000 + "\n" * 10, {})
    assert not usual.keeps("x" * 1001 + "\n" * 11, {})
    assert usual.keeps("ab" + "-" * 6, {})
    assert not usual.keeps("ab" + "-" * 7, {})
    assert not asked(kind="lines", minimum_lines=3).keeps("one\ntwo\n", {})
    assert asked(kind="lines", minimum_lines=2).keeps("one\ntwo\n", {})
    assert not usual.keeps("\n", {})


@given(st.text(min_size=1), st.floats(0, 1))
def test_the_share_of_letters_and_digits_is_the_one_of_isalnum(text: str, share: float) -> None:
    found = LinesFilter(
        kind="lines", minimum_alphanumeric=share, maximum_mean_length=10.0**6, maximum_length=10**6
    ).keeps(text.replace("\ud800", ""), {})

    assert found == (sum(map(str.isalnum, text)) >= share * len(text))


ROWS = [
    {"text": "a document that is long enough", "licence": ["mit"], "meta": {"set": "wiki"}, "other": 1},
    {"text": "another one, of a licence that is not", "licence": ["gpl"], "meta": {"set": "wiki"}, "other": 1},
    {"text": "short", "licence": ["gpl"], "meta": {"set": "wiki"}, "other": 1},
    {"text": "and one of another collection: ünïcode", "licence": ["mit"], "meta": {"set": "web"}, "other": 1},
    {"text": "", "licence": ["gpl"], "meta": {"set": "web"}, "other": 1},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_first_filter_that_is_not_met_counts_a_document_whatever_the_format(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    found = source(
        {"kind": "length", "minimum_characters": 10},
        {"kind": "field", "field": "licence", "values": ["mit"]},
        {"kind": "field", "field": "meta.set", "values": ["wiki"]},
        kind=kind,
        root=str(tmp_path),
    )
    tally = Tally()

    documents = list(read_documents(found, tally))

    assert [document.text for document in documents] == [ROWS[0]["text"]]
    lengths = [len(str(row["text"]).encode()) for row in ROWS]
    assert tally.dropped == {"length": Dropped(1, 5), "field": Dropped(2, lengths[1] + lengths[3])}
    assert (tally.num_records, tally.num_empty, tally.num_unreadable) == (5, 1, 0)


def test_parquet_reads_the_columns_that_text_and_filters_need_and_no_others(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    licence = {"kind": "field", "field": "licence", "values": ["mit"]}

    assert next(source(kind="parquet", root=path).records()).fields.keys() == {"text"}
    assert next(source(licence, kind="parquet", root=path).records()).fields.keys() == {"text", "licence"}
