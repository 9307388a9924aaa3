"""Mixing end to end: exact counts, held-out documents, interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from lemur.data.mixing import mix_tokens
from lemur.dataset import TokenDataset, shard_name
from lemur.errors import PlanError, RecipeError, StorageError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.recipe import DataSection, ModelSection
from lemur.results import fetch, read_manifest

WORDS = ("import", "return", "class", "yield", "value", "while", "print", "self", "little", "tokens", "one", "text")
LENGTH = 16


def document(number: int) -> str:
    chosen = np.random.default_rng(number).choice(WORDS, size=40)
    return f"# file {number}\n" + " ".join(chosen) + "\n"


def model(**tokenizer: Any) -> ModelSection:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    return ModelSection.model_validate(
        {
            "start": {"kind": "random"},
            "architecture": {**sizes, "max_position": 64},
            "tokenizer": {"kind": "train", "vocab_size": 300, **tokenizer},
        }
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for name, numbers in {"code": range(300), "text": range(1000, 1100)}.items():
        (folder / name).mkdir(parents=True)
        lines = [json.dumps({"text": document(number)}) for number in numbers]
        (folder / name / "a.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def section(corpus: Path, **changes: Any) -> DataSection:
    sources = [{"kind": "jsonl", "name": name, "group": name, "root": str(corpus / name)} for name in ("code", "text")]
    fields: dict[str, Any] = {
        "sources": sources,
        "groups": {"code": 10, "text": 1},
        "sequence_length": LENGTH,
        "heldout_fraction": 0.1,
        "shard_tokens": 100 * LENGTH,
        **changes,
    }
    return DataSection.model_validate(fields)


@pytest.fixture
def mix(corpus: Path, tmp_path: Path) -> Callable[..., Receipt]:
    def run(**changes: Any) -> Receipt:
        return mix_tokens(model=model(), data=section(corpus, **changes), storage=str(tmp_path / "storage"))

    return run


def heldout(folder: Path, source: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "heldout" / f"{source}.jsonl").read_text().splitlines()]


def stored_tokens(folder: Path, source: str) -> np.ndarray[Any, Any]:
    return np.concatenate([np.fromfile(path, "<u2") for path in sorted((folder / "shards" / source).iterdir())])


def trained_texts(folder: Path, source: str) -> list[str]:
    """Decodes what training reads of a source; the last document may be cut."""
    decoded = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")).decode(
        stored_tokens(folder, source).tolist(), skip_special_tokens=False
    )
    return decoded.split("<|endoftext|>")


def test_every_document_is_trained_on_or_held_out_and_the_counts_are_exact(
    mix: Callable[..., Receipt], tmp_path: Path
) -> None:
    receipt = mix()
    folder = fetch(receipt, tmp_path / "unused")

    for source, numbers in {"code": range(300), "text": range(1000, 1100)}.items():
        counts = receipt.metadata["sources"][source]
        kept = {line["text"] for line in heldout(folder, source)}
        *trained, _ = trained_texts(folder, source)
        assert kept
        assert kept.isdisjoint(trained)
        expected = {document(number) for number in numbers}
        assert kept | set(trained) <= expected
        assert len(expected - kept - set(trained)) <= 1  # The tail that fills no sequence ends in one document.
        assert counts["heldout_documents"] == len(kept)
        assert counts["heldout_bytes"] == sum(len(text.encode()) for text in kept)
        assert counts["documents"] == len(numbers) - len(kept)
        assert counts["bytes"] == sum(len(text.encode()) for text in expected - kept)
        assert counts["tokens"] == len(stored_tokens(folder, source))
        assert counts["tokens"] % LENGTH == 0
        assert counts["dropped_tokens"] < LENGTH
        encoder = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        num_tokens = sum(len(encoder.encode(text).ids) + 1 for text in expected - kept)
        assert counts["tokens"] + counts["dropped_tokens"] == num_tokens
    assert receipt.metrics["tokens"] == sum(source["tokens"] for source in receipt.metadata["sources"].values())
    assert receipt.metrics["documents"] + sum(len(heldout(folder, name)) for name in ("code", "text")) == 400
    assert (receipt.metadata["vocab_size"], receipt.metadata["sequence_length"]) == (300, LENGTH)


def test_the_dataset_reads_the_groups_at_the_requested_shares(mix: Callable[..., Receipt], tmp_path: Path) -> None:
    receipt = mix()
    dataset = TokenDataset(fetch(receipt, tmp_path / "unused"))

    assert [source.weight for source in dataset.index.sources] == pytest.approx([10 / 11, 1 / 11])
    assert dataset.mixture.counts(1100) == {"code": 1000, "text": 100}
    assert dataset.sample(10**6).max() < 300
    stored = receipt.metadata["sources"]
    assert len(dataset) * LENGTH == stored["code"]["tokens"] + stored["text"]["tokens"]


def test_heldout_lines_say_where_a_document_is_from(mix: Callable[..., Receipt], tmp_path: Path) -> None:
    line = heldout(fetch(mix(), tmp_path), "text")[0]

    assert set(line) == {"text", "group", "origin"}
    assert line["group"] == "text"
    number = int(line["origin"].removeprefix("a.jsonl:")) - 1
    assert line["text"] == document(1000 + number)


def test_copies_of_a_heldout_document_are_never_trained_on_in_any_source(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    code = (corpus / "code" / "a.jsonl").read_text()
    (corpus / "text" / "a.jsonl").write_text((corpus / "text" / "a.jsonl").read_text() + code * 2)

    # The limit holds back fewer of the larger source's candidates, so the sources disagree on what to hold out.
    receipt = mix(heldout_max_bytes=2500)
    folder = fetch(receipt, tmp_path)

    kept = {line["text"] for name in ("code", "text") for line in heldout(folder, name)}
    assert kept.isdisjoint(trained_texts(folder, "code"))
    assert kept.isdisjoint(trained_texts(folder, "text"))
    assert receipt.metadata["sources"]["text"]["heldout_copies"] > 0
    for name, total in (("code", 300), ("text", 700)):
        counts = receipt.metadata["sources"][name]
        assert counts["heldout_bytes"] <= 2500
        assert counts["documents"] + counts["heldout_documents"] + counts["heldout_copies"] == total


def test_a_document_stays_on_its_side_when_others_are_added(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    before = {line["text"] for line in heldout(fetch(mix(), tmp_path), "code")}
    path = corpus / "code" / "a.jsonl"
    path.write_text("".join(json.dumps({"text": document(n)}) + "\n" for n in range(300, 400)) + path.read_text())

    after = {line["text"] for line in heldout(fetch(mix(), tmp_path), "code")}

    assert before < after


def test_no_fraction_holds_nothing_out(mix: Callable[..., Receipt], tmp_path: Path) -> None:
    receipt = mix(heldout_fraction=0)

    assert receipt.metadata["sources"]["code"]["documents"] == 300
    assert heldout(fetch(receipt, tmp_path), "code") == []


def test_a_second_run_is_found_and_only_what_matters_makes_it_anew(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = mix()
    capsys.readouterr()

    assert mix(dialogues=[{"kind": "expressions", "name": "expr"}]) == first
    assert "mix: unchanged" in capsys.readouterr().err
    assert mix(seed=1).key != first.key
    (corpus / "text" / "b.jsonl").write_text('{"text": "one more"}\n')
    assert mix().key != first.key


def test_a_missing_shard_is_made_anew(mix: Callable[..., Receipt], tmp_path: Path) -> None:
    first = mix()
    shard = fetch(first, tmp_path) / shard_name("code", 0)
    shard.unlink()

    assert mix().digest == first.digest
    assert shard.exists()


def test_text_that_spells_the_end_of_text_token_does_not_end_a_document(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    path = corpus / "text" / "a.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "before <|endoftext|> after"}) + "\n")

    receipt = mix(heldout_fraction=0)
    folder = fetch(receipt, tmp_path)

    ends = int((stored_tokens(folder, "text") == TokenDataset(folder).index.end_of_text_id).sum())
    assert ends in (100, 101)  # One document a line; the last one's end may be in the dropped tail.
    assert receipt.metadata["sources"]["text"]["documents"] == 101


def test_a_source_without_one_sequence_is_refused_and_stores_nothing(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    (corpus / "text" / "a.jsonl").write_text('{"text": "tiny"}\n')

    with pytest.raises(PlanError, match="'text' holds no complete sequence"):
        mix(heldout_fraction=0)
    assert not list((tmp_path / "storage").rglob(MANIFEST_NAME))


def test_too_many_unreadable_records_stop_the_run_and_a_few_are_in_the_receipt(
    mix: Callable[..., Receipt], corpus: Path
) -> None:
    path = corpus / "code" / "a.jsonl"
    good = path.read_text()
    path.write_text(good + "{broken\n" * 3)
    counts = mix().metadata["sources"]["code"]
    path.write_text(good + "{broken\n" * 11)

    assert counts["unreadable"] == 3
    assert counts["unreadable_first"][0].startswith("a.jsonl:301: not JSON")
    with pytest.raises(RecipeError, match="11 of 311 records cannot be read"):
        mix()


def test_a_full_scratch_disk_is_one_clear_error_and_the_next_run_finishes(
    mix: Callable[..., Receipt], small_disk: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus / "code" / "a.jsonl"
    path.write_text("".join(json.dumps({"text": document(number) * 40}) + "\n" for number in range(300)))
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))

    with pytest.raises(StorageError, match=r"no space left in .*small/lemur-mix-.*TMPDIR"):
        mix()
    monkeypatch.setattr("tempfile.tempdir", None)
    assert mix().metrics["documents"] > 0


def test_a_killed_mix_leaves_no_result_and_the_next_run_makes_the_same_as_an_unbroken_one(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from lemur.data.mixing import mix_tokens\n"
        "from lemur.recipe import DataSection, ModelSection\n"
        "model, data = (section.model_validate_json(text) for section, text in\n"
        "               zip((ModelSection, DataSection), sys.argv[1:3]))\n"
        "mix_tokens(model=model, data=data, storage=sys.argv[3])\n"
    )
    storage, events = tmp_path / "storage", tmp_path / "events"
    arguments = [model().model_dump_json(), section(corpus).model_dump_json(), str(storage)]
    environment = {**os.environ, "LEMUR_PROGRESS": str(events), "TMPDIR": str(tmp_path)}

    def is_tokenizing() -> bool:
        return '"tokenize text"' in events.read_text()

    def is_storing() -> bool:
        return any(storage.rglob("*.bin"))

    for has_come in (is_tokenizing, is_storing):
        events.write_text("")
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment)
        while process.poll() is None and not has_come():
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert has_come()
        for manifest in storage.rglob(MANIFEST_NAME):
            fetch(read_manifest(str(manifest.parent)).receipt(str(manifest.parent)), tmp_path)

    finished = mix_tokens(model=model(), data=section(corpus), storage=str(storage))
    unbroken = mix_tokens(model=model(), data=section(corpus), storage=str(tmp_path / "other"))
    fetch(finished, tmp_path)
    assert finished.digest == unbroken.digest
