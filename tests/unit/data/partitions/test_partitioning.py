"""The list of partitions: what makes one partition another, and what leaves it as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_corpus import END_OF_TEXT_ID, document, model, path_of, save_tokenizer, section, write_lines

from lemur.data.partitions.listing import PartitionList, list_partitions, num_workers, read_partitions
from lemur.errors import RecipeError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection

BENCHMARK = "Write a function that returns the sum of the squares of all even numbers in a list"
NEAR = {"near_duplicates": {"num_permutations": 64}}


@pytest.fixture
def list_them(tokenizer: ModelSection, corpus: Path, tmp_path: Path) -> Callable[..., PartitionList]:
    def run(root: Path = corpus, tokenizer: ModelSection = tokenizer, **changes: Any) -> PartitionList:
        receipt = list_partitions(model=tokenizer, data=section(root, **changes), storage=str(tmp_path / "storage"))
        return read_partitions(receipt, tmp_path / "work")[0]

    return run


def keys(listed: PartitionList, source: str = "") -> list[str]:
    return [partition.key for partition in listed.partitions if source in ("", partition.source)]


def test_every_file_is_in_one_partition_of_its_source_in_order(list_them: Callable[..., PartitionList]) -> None:
    listed = list_them()

    places = [(one.source, one.number, [file.name for file in one.partition.files]) for one in listed.partitions]
    assert places == [
        ("code", 0, ["a.jsonl"]), ("code", 1, ["b.jsonl"]), ("code", 2, ["c.jsonl"]),
        ("text", 0, ["a.jsonl"]), ("text", 1, ["b.jsonl"]),
    ]  # fmt: skip
    assert len({one.prefix for one in listed.partitions}) == 5
    assert all(one.prefix == f"documents/{one.key[:16]}" for one in listed.partitions)
    assert listed.end_of_text_id == END_OF_TEXT_ID
    assert [len(one.partition.files) for one in list_them(partition_bytes=10**6).partitions] == [3, 2]


def test_a_list_holds_the_tokenizer_and_is_found_again(
    tokenizer: ModelSection, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> Receipt:
        return list_partitions(model=tokenizer, data=section(corpus), storage=str(tmp_path / "storage"))

    first = make()

    assert (first.kind, first.metrics["partitions"]) == ("partitions", 5)
    assert first.metadata["sources"] == {"code": 3, "text": 2}
    assert (path_of(first) / "tokenizer/tokenizer.json").is_file()
    capsys.readouterr()
    assert make() == first
    assert "partition: unchanged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"sequence_length": 48, "packing": "concatenate", "seed": 5, "heldout_max_bytes": 10, "num_workers": 3}),
        ({}, {"code": {"weight": 3, "max_epochs": 2, "available_tokens": 10, "available_records": 10}}),
        ({}, {"code": {"group": "text"}, "text": {"group": "text"}, "groups": {"text": 1}}),
        ({}, {"cleaning": {"exact_duplicates": False, "max_unreadable": 0.5}}),
        ({"cleaning": NEAR}, {"cleaning": {"near_duplicates": {"num_permutations": 64, "threshold": 0.6}}}),
        ({}, {"code": {"patterns": ["*.jsonl"], "exclude": ["none"]}}),
    ],
)
def test_what_does_not_change_the_tokens_of_a_document_makes_no_partition_another(
    list_them: Callable[..., PartitionList], before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert keys(list_them(**before)) == keys(list_them(**after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"heldout_fraction": 0.1}),
        ({}, {"cleaning": NEAR}),
        ({"cleaning": NEAR}, {"cleaning": {"near_duplicates": {"num_permutations": 64, "ngram_words": 4}}}),
        ({"cleaning": NEAR}, {"cleaning": {"near_duplicates": {"num_permutations": 32}}}),
        ({}, {"cleaning": {"decontamination": {"benchmarks": {"sums": "{corpus}/bench.txt"}}}}),
        (
            {"cleaning": {"decontamination": {"benchmarks": {"sums": "{corpus}/bench.txt"}}}},
            {"cleaning": {"decontamination": {"benchmarks": {"sums": "{corpus}/bench.txt"}, "ngram_words": 8}}},
        ),
    ],
)
def test_what_is_stored_of_every_document_makes_all_partitions_others(
    list_them: Callable[..., PartitionList], corpus: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    (corpus / "bench.txt").write_text(BENCHMARK)

    def made(changes: dict[str, Any]) -> set[str]:
        return set(keys(list_them(**json.loads(json.dumps(changes).replace("{corpus}", str(corpus))))))

    assert made(before).isdisjoint(made(after))


def test_other_problems_in_a_benchmark_make_all_partitions_others(
    list_them: Callable[..., PartitionList], corpus: Path
) -> None:
    (corpus / "bench.txt").write_text(BENCHMARK)
    cleaning = {"decontamination": {"benchmarks": {"sums": str(corpus / "bench.txt")}}}
    before = list_them(cleaning=cleaning)
    (corpus / "bench.txt").write_text(BENCHMARK.replace("squares", "cubes"))

    assert set(keys(before)).isdisjoint(keys(list_them(cleaning=cleaning)))


def test_a_setting_of_one_source_makes_only_its_partitions_others(list_them: Callable[..., PartitionList]) -> None:
    before = list_them()

    for change in ({"filters": [{"kind": "length", "minimum_characters": 9}]}, {"text_field": "content"}):
        after = list_them(code=change)
        assert set(keys(before, "code")).isdisjoint(keys(after, "code"))
        assert keys(before, "text") == keys(after, "text")


def test_a_file_that_is_added_or_left_out_makes_no_other_partition_another(
    list_them: Callable[..., PartitionList], corpus: Path
) -> None:
    before = list_them()
    write_lines(corpus / "code/aa.jsonl", [document(9)])
    after = list_them()

    assert [key for key in keys(after) if key in keys(before)] == keys(before)
    assert len(keys(after)) == len(keys(before)) + 1
    assert keys(list_them(code={"exclude": ["aa.jsonl"]})) == keys(before)


def test_a_file_that_changes_makes_its_partition_another_even_where_its_size_stays(
    list_them: Callable[..., PartitionList], corpus: Path
) -> None:
    before = list_them()
    path = corpus / "code/b.jsonl"
    path.write_text(path.read_text().replace("file 41", "file 77"))

    changed = [old != new for old, new in zip(keys(before), keys(list_them()), strict=True)]
    assert changed == [False, True, False, False, False]


def test_a_corpus_that_moved_is_the_same_and_is_read_where_it_is_now(
    list_them: Callable[..., PartitionList], corpus: Path, tmp_path: Path
) -> None:
    before = list_them()
    shutil.copytree(corpus, tmp_path / "moved")
    shutil.rmtree(corpus)

    after = list_them(tmp_path / "moved")

    assert keys(after) == keys(before)
    assert all(Path(file.location).is_file() for one in after.partitions for file in one.partition.files)


def test_a_corpus_that_moved_under_the_same_relative_name_is_read_where_it_is_now(
    list_them: Callable[..., PartitionList], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    list_them(Path("."))
    shutil.copytree(corpus, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")

    listed = list_them(Path("."))

    locations = [file.location for one in listed.partitions for file in one.partition.files]
    assert all(location.startswith(f"{tmp_path}/moved/") for location in locations)


def test_another_tokenizer_makes_all_partitions_others(list_them: Callable[..., PartitionList], tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "other")
    content = json.loads((tmp_path / "other/tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(content))

    assert set(keys(list_them())).isdisjoint(keys(list_them(tokenizer=other)))


def test_a_trained_tokenizer_follows_its_sources_and_their_shares(list_them: Callable[..., PartitionList]) -> None:
    trained = model(kind="train", vocab_size=280, sample_bytes=2000)

    first, again, other = (list_them(tokenizer=trained, seed=1), list_them(tokenizer=trained, seed=2),
                           list_them(tokenizer=trained, groups={"code": 1, "text": 50}))  # fmt: skip

    assert first.vocab_size == 280
    assert first == again
    assert first.tokenizer != other.tokenizer
    assert set(keys(first)).isdisjoint(keys(other))


def test_a_source_that_is_not_there_is_refused_before_anything_is_stored(
    tokenizer: ModelSection, corpus: Path, tmp_path: Path
) -> None:
    data = section(corpus, text={"root": str(corpus / "nowhere")})

    with pytest.raises(RecipeError, match=r"source 'text' has no files: root .*nowhere does not exist"):
        list_partitions(model=tokenizer, data=data, storage=str(tmp_path / "storage"))
    assert not (tmp_path / "storage").exists()


def test_there_are_no_more_steps_than_partitions(tokenizer: ModelSection, corpus: Path, tmp_path: Path) -> None:
    data = section(corpus)
    partitions = list_partitions(model=tokenizer, data=data, storage=str(tmp_path / "storage"))

    assert [num_workers(section(corpus, num_workers=count), partitions) for count in (1, 4, 9)] == [1, 4, 5]
