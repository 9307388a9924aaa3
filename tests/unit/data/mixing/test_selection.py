"""Which documents are trained on, which are measured on, and which are left out."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import END_OF_TEXT_ID, document, section, write_lines

from lemur.data.mixing.heldout import uniform
from lemur.data.mixing.selection import Left, select
from lemur.data.mixing.stored_documents import StoredDocuments
from lemur.data.partitions.documents import DocumentsMaker
from lemur.data.tokenizer.encoder import Encoder, open_encoder
from lemur.recipe import DataSection, ModelSection, PretrainedTokenizer
from lemur.results import write_result

Partitions = Sequence[tuple[str, Sequence[str]]]
"""Name of a source, and the documents of one of its partitions; those of a source one after another."""
SELECT_WITH_FEW_FILES = """
import json, resource, sys
from pathlib import Path
from lemur.data.mixing.selection import select
from lemur.data.mixing.stored_documents import StoredDocuments
from lemur.receipt import Receipt
from lemur.recipe import DataSection

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
receipts = json.loads((folder / "receipts.json").read_text())
stored = [StoredDocuments(Receipt.model_validate(receipt), folder) for receipt in receipts]
selection = select(stored, DataSection.model_validate_json((folder / "data.json").read_text()))
print(sum(int(flags.sum()) for flags in selection.kept), len(selection.heldout["code"]))
"""
NEAR = {"num_permutations": 64, "ngram_words": 2, "threshold": 0.7}


class Selected(NamedTuple):
    """What became of documents, as texts."""

    kept: list[list[str]]
    left: list[Left]
    heldout: dict[str, list[str]]


class Selecting:
    """Stores partitions and selects among them."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder, self._folder = encoder, folder

    def store(self, partitions: Partitions, data: DataSection, folder: Path) -> list[StoredDocuments]:
        sources = {source.name: source for source in data.sources}
        maker = DocumentsMaker(data, self._encoder, None)
        stored = []
        for number, (name, texts) in enumerate(partitions):
            path = folder / f"{number}.jsonl"
            write_lines(path, texts)
            source = sources[name].model_copy(update={"root": str(path)})
            (partition,) = source.partitions(10**9)
            (folder / str(number)).mkdir()
            made = maker.make(source, partition, folder / str(number), lambda count: None)
            writer = write_result(str(folder), prefix=f"documents/{number}", kind="documents", stage="tokenize",
                                  key=str(number), parents={})  # fmt: skip
            writer.add_folder(folder / str(number))
            stored.append(StoredDocuments(writer.commit(metrics=made.metrics, metadata=made.metadata), folder))
        return stored

    def select(self, partitions: Partitions, **changes: Any) -> Selected:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            data = section(folder, **changes)
            selection = select(self.store(partitions, data, Path(folder)), data)
        texts = [list(part) for _, part in partitions]
        return Selected(
            [[text for text, flag in zip(part, flags, strict=True) if flag]
             for part, flags in zip(texts, selection.kept, strict=True)],
            selection.left,
            {source: [texts[one.partition][one.row] for one in chosen] for source, chosen in selection.heldout.items()},
        )  # fmt: skip


@pytest.fixture(scope="module")
def selecting(tokenizer: ModelSection, tmp_path_factory: pytest.TempPathFactory) -> Selecting:
    assert isinstance(tokenizer.tokenizer, PretrainedTokenizer)
    folder = Path(tokenizer.tokenizer.name)
    encoder = open_encoder(folder, "fastokens", end_of_text_id=END_OF_TEXT_ID, vocab_size=500)
    return Selecting(encoder, tmp_path_factory.mktemp("selecting"))


def place(text: str) -> float:
    return uniform(hashlib.sha256(text.encode()).digest())


def held_out(texts: Sequence[str], fraction: float, max_bytes: int) -> list[str]:
    """Returns what is held out of a source, by the rule as it is written down."""
    chosen, total = list[str](), 0
    for text in sorted({text for text in texts if place(text) < fraction}, key=place):
        if total + len(text.encode()) <= max_bytes:
            chosen.append(text)
            total += len(text.encode())
    return chosen


corpora = st.lists(st.lists(st.integers(0, 25).map(document), max_size=12), min_size=2, max_size=5)


@settings(max_examples=15, deadline=None)
@given(parts=corpora, num_code=st.integers(1, 4), fraction=st.sampled_from([0.0, 0.2, 0.49]), exact=st.booleans(),
       max_bytes=st.sampled_from([150, 10**6]))  # fmt: skip
def test_every_text_is_kept_once_or_held_out_and_never_both(
    selecting: Selecting, parts: list[list[str]], num_code: int, fraction: float, exact: bool, max_bytes: int
) -> None:
    partitions = [("code" if number < num_code else "text", part) for number, part in enumerate(parts)]
    made = selecting.select(
        partitions, heldout_fraction=fraction, heldout_max_bytes=max_bytes, cleaning={"exact_duplicates": exact}
    )

    seen = set[str]()
    held = {text for texts in made.heldout.values() for text in texts}
    for number, (source, part) in enumerate(partitions):
        first = [text not in seen and text not in part[:row] for row, text in enumerate(part)]
        seen |= set(part)
        assert made.kept[number] == [
            text for text, is_first in zip(part, first, strict=True) if text not in held and (is_first or not exact)
        ]
        assert made.left[number].duplicates == (first.count(False) if exact else 0)
        own = len([text for text in made.heldout[source] if text in part])
        assert len(part) >= len(made.kept[number]) + made.left[number].duplicates + made.left[number].heldout_copies
        assert (
            len(part) <= len(made.kept[number]) + own + made.left[number].duplicates + made.left[number].heldout_copies
        )
    for source in {source for source, _ in partitions}:
        own_texts = [text for name, part in partitions if name == source for text in part]
        before = [text for name, part in partitions if name == "code" for text in part] if source == "text" else []
        eligible = [text for text in own_texts if not (exact and text in before)]
        assert made.heldout[source] == held_out(eligible, fraction, max_bytes)


def test_what_is_held_out_does_not_depend_on_how_a_source_is_divided(selecting: Selecting) -> None:
    texts = [document(number) for number in range(200)]
    whole = selecting.select([("code", texts)], heldout_fraction=0.3, heldout_max_bytes=2000)
    divided = selecting.select(
        [("code", texts[begin : begin + 30]) for begin in range(0, 200, 30)],
        heldout_fraction=0.3,
        heldout_max_bytes=2000,
    )

    assert whole.heldout == divided.heldout
    assert 1500 < sum(len(text.encode()) for text in whole.heldout["code"]) <= 2000
    assert [text for part in divided.kept for text in part] == whole.kept[0]


def test_a_document_stays_on_its_side_when_others_are_added(selecting: Selecting) -> None:
    few = [document(number) for number in range(100)]
    before = selecting.select([("code", few)], heldout_fraction=0.2)
    after = selecting.select([("code", [*map(document, range(100, 150)), *few])], heldout_fraction=0.2)

    assert before.heldout["code"]
    assert set(before.heldout["code"]) < set(after.heldout["code"])
    assert set(before.kept[0]) < set(after.kept[0])


def test_copies_of_what_is_held_out_are_counted_where_duplicates_stay(selecting: Selecting) -> None:
    texts = [document(number) for number in range(50)]
    made = selecting.select(
        [("code", texts), ("text", texts * 2)], heldout_fraction=0.3, cleaning={"exact_duplicates": False}
    )

    held = made.heldout["code"]
    assert made.heldout["text"] == held != []
    assert made.left == [Left(), Left(heldout_copies=len(held))]
    assert len(made.kept[1]) == 2 * (50 - len(held))


def test_what_is_almost_held_out_is_left_out_wherever_it_stands(selecting: Selecting) -> None:
    texts = [document(number, 200) for number in range(60)]
    held = [text for text in texts if place(text) < 0.3]
    copies = [f"{text}and two more" for text in held]
    made = selecting.select(
        [("text", copies), ("code", texts)], heldout_fraction=0.3, cleaning={"near_duplicates": NEAR}
    )

    assert held
    in_text = {text for text in copies if place(text) < 0.3}
    for text, copy in zip(held, copies, strict=True):
        assert copy not in made.kept[0]
        assert text not in made.kept[1]
    assert made.left[0].near_duplicates == len(copies) - len(in_text)


def test_what_is_almost_held_out_is_left_out_even_where_held_out_documents_are_alike(selecting: Selecting) -> None:
    words = [f"word{number}" for number in range(100)]

    def varied(first: int, wanted: bool) -> str:
        """Returns the words with ten others from one on, held out or not as is wanted."""
        changed = [f"other{number}" if first <= number < first + 10 else word for number, word in enumerate(words)]
        tails = (f"{' '.join(changed)} {number}\n" for number in range(1000))
        return next(text for text in tails if (place(text) < 0.3) == wanted)

    # Of three in a row, the outer ones differ in twice as many words from each other as from the middle one.
    middle, outer, trained = " ".join(words), varied(0, wanted=True), varied(80, wanted=False)
    held = [outer, next(text for text in (f"{middle} {n}\n" for n in range(1000)) if place(outer) < place(text) < 0.3)]

    made = selecting.select(
        [("code", held), ("text", [trained, document(7, 100)])],
        heldout_fraction=0.3,
        cleaning={"near_duplicates": {**NEAR, "num_permutations": 512}},
    )

    assert made.heldout["code"] == held
    assert made.kept == [[], [document(7, 100)]]


def test_more_partitions_than_files_may_be_open_are_selected_from(selecting: Selecting, tmp_path: Path) -> None:
    data = section(tmp_path, cleaning={"near_duplicates": NEAR}, heldout_fraction=0.2)
    stored = selecting.store([("code", [document(number, 60)]) for number in range(50)], data, tmp_path)
    (tmp_path / "receipts.json").write_text(json.dumps([one.receipt.model_dump(mode="json") for one in stored]))
    (tmp_path / "data.json").write_text(data.model_dump_json())

    # In a process of its own: how many files this one has open depends on what was tested before.
    ended = subprocess.run(
        [sys.executable, "-c", SELECT_WITH_FEW_FILES, str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    num_kept, num_heldout = map(int, ended.stdout.split())
    assert num_heldout > 0
    assert num_kept == 50 - num_heldout
