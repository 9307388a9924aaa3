"""What is left out of a mixture, and how it is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpus import StoredMixture, document, path_of, write_corpus, write_lines

from lemur.errors import RecipeError
from lemur.receipt import Receipt


def test_duplicates_across_sources_and_partitions_are_left_out_but_for_the_first(
    mix: Callable[..., Receipt], corpus: Path
) -> None:
    code, text = (write_corpus(corpus)[name] for name in ("code", "text"))
    write_lines(corpus / "code/d.jsonl", [code[0], "new\n", "new\n"])
    write_lines(corpus / "text/c.jsonl", [text[3], code[5], "also new\n"])

    cleaned, kept = mix(), mix(cleaning={"exact_duplicates": False})

    assert StoredMixture(cleaned).texts("code") == [*code, "new\n"]
    assert StoredMixture(cleaned).texts("text") == [*text, "also new\n"]
    assert [cleaned.metadata["sources"][name]["duplicates"] for name in ("code", "text")] == [2, 2]
    assert StoredMixture(kept).texts("code") == [*code, code[0], "new\n", "new\n"]
    assert StoredMixture(kept).texts("text") == [*text, text[3], code[5], "also new\n"]
    assert [kept.metadata["sources"][name]["duplicates"] for name in ("code", "text")] == [0, 0]


def test_almost_the_same_documents_are_left_out_but_for_the_first(mix: Callable[..., Receipt], corpus: Path) -> None:
    long = [f"{document(number, 300)} {number}\n" for number in range(5000, 5004)]
    write_lines(corpus / "code/d.jsonl", long)
    write_lines(corpus / "text/c.jsonl", [f"{long[2]} one more word", "unlike all others, this stays\n"])

    receipt = mix(cleaning={"near_duplicates": {"num_permutations": 64}})

    assert [receipt.metadata["sources"][name]["near_duplicates"] for name in ("code", "text")] == [0, 1]
    assert StoredMixture(receipt).texts("text")[-1] == "unlike all others, this stays\n"
    assert StoredMixture(receipt).texts("code")[-4:] == long


def test_contaminated_documents_are_listed_and_counted(mix: Callable[..., Receipt], corpus: Path) -> None:
    problem = "Write a function that returns the sum of the squares of all even numbers in a list"
    (corpus / "bench.jsonl").write_text(json.dumps({"prompt": problem}))
    write_lines(corpus / "text/c.jsonl", ["clean\n", f"A page.\n\n{problem.upper()}.\n"])

    receipt = mix(cleaning={"decontamination": {"benchmarks": {"sums": str(corpus / "bench.jsonl")}}})

    (entry,) = [json.loads(line) for line in (path_of(receipt) / "contaminated.jsonl").read_text().splitlines()]
    assert (entry["source"], entry["origin"], entry["benchmark"]) == ("text", "c.jsonl:2", "sums")
    assert entry["words"].split() == problem.lower().split()[:13]
    assert StoredMixture(receipt).texts("text")[-1] == "clean\n"
    assert [receipt.metadata["sources"][name]["contaminated"] for name in ("code", "text")] == [0, 1]


def test_filters_count_what_they_leave_out_by_source(mix: Callable[..., Receipt], corpus: Path) -> None:
    texts = write_corpus(corpus)["code"]
    short = [text for text in texts if len(text) < 30]

    receipt = mix(code={"filters": [{"kind": "length", "minimum_characters": 30}]})

    assert short
    assert StoredMixture(receipt).texts("code") == [text for text in texts if len(text) >= 30]
    counts = receipt.metadata["sources"]
    assert counts["code"]["dropped"] == {
        "length": {"documents": len(short), "bytes": sum(len(text.encode()) for text in short)}
    }
    assert "dropped" not in counts["text"]


def test_unreadable_records_are_judged_over_all_partitions_and_the_first_are_in_the_receipt(
    mix: Callable[..., Receipt], corpus: Path
) -> None:
    for name, count in (("a", 4), ("c", 6)):
        with (corpus / f"code/{name}.jsonl").open("a") as file:
            file.write("{broken\n" * count)
    counts = mix().metadata["sources"]["code"]
    with (corpus / "code/b.jsonl").open("a") as file:
        file.write("{broken\n")

    assert counts["unreadable"] == 10
    assert counts["unreadable_first"][0].startswith("a.jsonl:41: not JSON")
    assert counts["unreadable_first"][4].startswith("c.jsonl:41: not JSON")
    with pytest.raises(RecipeError, match="'code': 11 of 137 records cannot be read"):
        mix()
    assert mix(cleaning={"max_unreadable": 0.1}).metadata["sources"]["code"]["unreadable"] == 11
