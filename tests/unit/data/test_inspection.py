"""An inspection tells where every token came from, and where every document went."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from lemur.cli import app
from lemur.data.inspection.figures import source_figures, total_figures
from lemur.data.inspection.inspecting import Inspection, inspect_dataset
from lemur.data.inspection.standing import first_places
from lemur.data.inspection.view import render_inspection, visible
from lemur.data.mixing.heldout import uniform
from lemur.data.mixing.mixing import mix_tokens
from lemur.data.partitions.listing import list_partitions
from lemur.data.partitions.workers import tokenize_partitions
from lemur.errors import IntegrityError, RecipeError
from lemur.mixture import Mixture
from lemur.receipt import Receipt
from lemur.recipe import DataSection, ModelSection
from lemur.run_record import RunRecord
from lemur.storage import open_storage
from lemur.storage.s3 import S3Storage

if TYPE_CHECKING:
    from conftest import S3Server

WORDS = ("import", "return", "class", "yield", "value", "while", "print", "self", "little", "tokens", "one", "text")
LENGTH = 256
HELDOUT_FRACTION = 0.1
PROBLEM = "write a function that returns the sum of the squares of all even numbers in a list"


class Made(NamedTuple):
    """A stored mixture and what it was made from."""

    receipt: Receipt
    storage: str
    texts: dict[str, dict[str, str]]
    """Texts by source and origin."""


def words(number: int, count: int = 40) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, size=count)) + f" {number}\n"


def is_candidate(text: str) -> bool:
    return uniform(hashlib.sha256(text.encode()).digest()) < HELDOUT_FRACTION


TRAINED = [text for text in map(words, range(150)) if not is_candidate(text)]
HELDOUT = [text for text in map(words, range(150)) if is_candidate(text)]
LONG = words(1, 900)
NEAR = words(2, 300)
CODE = [*TRAINED[:60], HELDOUT[0], LONG, NEAR, f"# {PROBLEM}\n", "", "short", TRAINED[5], '{"text": 7}']
TEXT = [*TRAINED[60:90], NEAR.replace("little", "small", 1), TRAINED[7], HELDOUT[0], HELDOUT[0]]


def write_source(folder: Path, texts: list[str]) -> dict[str, str]:
    """Writes a source's file, and returns its texts by origin."""
    folder.mkdir(parents=True)
    lines = [text if text.startswith("{") else json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {f"a.jsonl:{number}": text for number, text in enumerate(texts, start=1)}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """Makes a mixture of two sources in a folder; what was tokenized for an earlier one is used again."""
    folder = tmp_path_factory.mktemp("inspection")
    texts = {"code": write_source(folder / "code", CODE), "text": write_source(folder / "text", TEXT)}
    (folder / "problems.jsonl").write_text(json.dumps({"prompt": PROBLEM}) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    model = ModelSection.model_validate(
        {
            "start": {"kind": "random"},
            "architecture": {**sizes, "max_position": LENGTH},
            "tokenizer": {"kind": "train", "vocab_size": 300},
        }
    )
    storage = str(folder / "storage")

    def run(**cleaning: Any) -> Made:
        fields = {"near_duplicates": {}, "decontamination": {"benchmarks": {"squares": str(folder / "problems.jsonl")}}}
        filters = [{"kind": "length", "minimum_characters": 10}]
        sources = [
            {"kind": "jsonl", "name": "code", "group": "code", "root": str(folder / "code"), "filters": filters},
            {"kind": "jsonl", "name": "text", "group": "text", "root": str(folder / "text")},
        ]
        data = DataSection.model_validate(
            {
                "sources": sources,
                "groups": {"code": 3, "text": 1},
                "sequence_length": LENGTH,
                "heldout_fraction": HELDOUT_FRACTION,
                "cleaning": {**fields, **cleaning},
            }
        )
        partitions = list_partitions(model=model, data=data, storage=storage)
        documents = tokenize_partitions(data=data, partitions=partitions, storage=storage, worker=0)
        return Made(mix_tokens(data=data, partitions=partitions, documents=documents, storage=storage), storage, texts)

    return run


@pytest.fixture(scope="module")
def made(make: Callable[..., Made]) -> Made:
    return make()


@pytest.fixture
def run(made: Made) -> str:
    """Record of a run that made the mixture."""
    record = RunRecord(made.storage, "small")
    record.begin(recipe={}, plan={"pretrain": {"num_sequences": 20}})
    record.keep("tokens", made.receipt)
    return record.uri


def fate(made: Made, source: str, number: int) -> tuple[str, str]:
    """Returns state and reason of a source's document by its number in `CODE` or `TEXT`."""
    found = inspect_dataset(made.receipt.uri, documents=[f"a.jsonl:{number + 1}"]).documents
    (one,) = (document for document in found if document.source == source)
    return one.state, one.reason


def shown(inspection: Inspection, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        render_inspection(inspection, console)
    return captured.get()


def test_every_piece_names_the_line_its_text_came_from(made: Made) -> None:
    num_sequences = source_total(made)
    inspection = inspect_dataset(made.receipt.uri, places=range(num_sequences))
    seen = set()
    for sample in inspection.samples:
        assert sum(piece.end_token - piece.first_token for piece in sample.pieces) + sample.padding_tokens == LENGTH
        for piece in sample.pieces:
            text = made.texts[sample.source][piece.origin] + inspection.end_of_text
            assert piece.text in text
            assert text.endswith(piece.ending) or piece.end_token != piece.document_tokens
            if piece.is_whole and not piece.ending:
                assert piece.text == text
                seen.add(piece.origin)
    assert len(seen) > 20


def source_total(made: Made) -> int:
    return sum(source["sequences"] for source in made.receipt.metadata["sources"].values())


def test_standings_of_a_cut_document_are_where_samples_show_it(made: Made) -> None:
    origin = f"a.jsonl:{CODE.index(LONG) + 1}"
    (document,) = inspect_dataset(made.receipt.uri, documents=[origin]).documents
    assert document.state == "kept"
    assert len(document.standings) > 2
    assert [standing.first_token for standing in document.standings] == [
        0,
        *(standing.end_token for standing in document.standings[:-1]),
    ]
    assert document.standings[-1].end_token == document.tokens
    samples = inspect_dataset(made.receipt.uri, places=[one.place for one in document.standings]).samples
    for standing, sample in zip(document.standings, samples, strict=True):
        assert (sample.source, sample.epoch, sample.sequence) == ("code", 0, standing.sequence)
        assert (origin, standing.first_token, standing.end_token) in [
            (piece.origin, piece.first_token, piece.end_token) for piece in sample.pieces
        ]


def test_what_became_of_each_document_is_said(made: Made) -> None:
    assert fate(made, "code", 0) == ("kept", "it is trained on, and stands in 1 sequence")
    assert fate(made, "code", CODE.index(HELDOUT[0])) == (
        "heldout", "it is kept from training, to measure on: heldout/code.jsonl",
    )  # fmt: skip
    assert fate(made, "code", 66) == ("duplicate", "its text stands earlier, at a.jsonl:6 of code")
    assert fate(made, "text", 31) == ("duplicate", "its text stands earlier, at a.jsonl:8 of code")
    assert fate(made, "text", 32) == ("duplicate", "its text stands earlier, at a.jsonl:61 of code, which is held out")
    assert fate(made, "text", 30)[0] == "near_duplicate"
    state, reason = fate(made, "code", 63)
    assert state == "contaminated"
    assert "squares" in reason
    state, reason = fate(made, "code", 67)
    assert state == "unreadable"
    assert "text" in reason


def test_copy_of_a_heldout_document_is_named_where_duplicates_stay(make: Callable[..., Made]) -> None:
    kept_twice = make(exact_duplicates=False, near_duplicates=None)
    assert fate(kept_twice, "text", 32)[0] == "heldout"
    assert fate(kept_twice, "text", 33) == ("heldout_copy", "its text is held out, from a.jsonl:61 of code")
    assert fate(kept_twice, "code", 66)[0] == "kept"


def test_origin_that_several_sources_have_finds_them_all(made: Made) -> None:
    found = inspect_dataset(made.receipt.uri, documents=["a.jsonl:2"]).documents
    assert [document.source for document in found] == ["code", "text"]
    assert [document.row for document in found] == [1, 1]


def test_unknown_origin_is_refused_with_an_example_and_what_is_not_listed(made: Made) -> None:
    with pytest.raises(RecipeError, match=r"no document at 'b.jsonl:1' .* look like 'a.jsonl:1'.* 1 empty, 1 unread"):
        inspect_dataset(made.receipt.uri, documents=["b.jsonl:1"])
    with pytest.raises(RecipeError, match="1 left out by filters"):
        inspect_dataset(made.receipt.uri, documents=[f"a.jsonl:{CODE.index('short') + 1000}"])


def test_figures_count_a_run_over_its_plan_and_a_mixture_over_what_is_stored(made: Made, run: str) -> None:
    stored = inspect_dataset(made.receipt.uri)
    assert stored.counted_sequences == source_total(made)
    planned = inspect_dataset(run)
    assert planned.uri == made.receipt.uri
    assert planned.counted_sequences == 20
    assert [source.read_sequences for source in planned.sources] == [15, 5]
    asked = inspect_dataset(run, tokens=100 * LENGTH - 1)
    assert asked.counted_sequences == 100
    assert [source.epochs for source in asked.sources] == [
        pytest.approx(count / source.sequences) for count, source in zip((75, 25), asked.sources, strict=True)
    ]
    for inspection in (stored, planned, asked):
        assert sum(source.realised for source in inspection.sources) == pytest.approx(1)
    code, text = asked.sources
    read = 75 * code.tokens / code.sequences, 25 * text.tokens / text.sequences
    assert [code.read_tokens, text.read_tokens] == [round(tokens) for tokens in read]
    assert code.realised == pytest.approx(read[0] / sum(read))
    assert code.realised != pytest.approx(0.75, abs=1e-4)


def test_sum_of_sources_is_what_the_receipt_counts(made: Made) -> None:
    inspection = inspect_dataset(made.receipt.uri)
    assert inspection.total.tokens == made.receipt.metrics["tokens"]
    assert inspection.total.documents == made.receipt.metrics["documents"] == sum(inspection.total.token_lengths)
    left = inspection.total.left_out
    fates = left.duplicates, left.near_duplicates, left.contaminated, left.filtered, left.unreadable, left.empty
    assert fates == (4, 1, 1, 1, 1, 1)
    everything = inspection.total.documents + sum(fates) + left.heldout_documents + left.heldout_copies
    assert everything == len(CODE) + len(TEXT)


def test_filters_of_the_same_kind_are_summed(made: Made) -> None:
    source = made.receipt.metadata["sources"]["code"]
    metadata = {"sources": {"one": source, "two": source | {"weight": 0.25}}, "seed": 0}
    assert total_figures(source_figures(metadata)).left_out.filters["length"].documents == 2


@pytest.mark.parametrize("where", ["", "documents", "nowhere"])
def test_what_is_no_mixture_is_refused_with_what_is_expected(where: str, made: Made) -> None:
    named = f"{made.storage}/{where}".rstrip("/")
    if where == "documents":
        named = str(next(Path(named).iterdir()))
    with pytest.raises(RecipeError, match=r"tokens/<key>.*runs/<name>"):
        inspect_dataset(named)


def test_mixture_in_object_storage_is_inspected_without_its_tokens_being_downloaded(
    made: Made, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    bucket, folder = open_storage(f"{s3.new_bucket()}/lemur"), Path(made.storage)
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.upload(path.relative_to(folder).as_posix(), path)
    fetched: list[str] = []
    for method in ("download", "read"):
        whole = getattr(S3Storage, method)

        def spy(self: S3Storage, name: str, *args: Any, _whole: Any = whole, **kwargs: Any) -> Any:
            fetched.append(name)
            return _whole(self, name, *args, **kwargs)

        monkeypatch.setattr(S3Storage, method, spy)
    documents = ["a.jsonl:2", f"a.jsonl:{CODE.index(HELDOUT[0]) + 1}"]
    there = inspect_dataset(f"{bucket.uri}/tokens/{Path(made.receipt.uri).name}", places=[0, 7], documents=documents)
    here = inspect_dataset(made.receipt.uri, places=[0, 7], documents=documents)
    assert there.model_copy(update={"uri": here.uri}) == here
    assert "dataset.json" in fetched
    assert "tokens.bin" not in fetched


def test_altered_origins_are_refused_rather_than_searched(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make(max_unreadable=0.01)
    copy = tmp_path / "storage"
    shutil.copytree(made.storage, copy)
    for origins in copy.glob("documents/*/origins.parquet"):
        data = bytearray(origins.read_bytes())
        data[20] ^= 1
        origins.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"origins\.parquet was altered"):
        inspect_dataset(str(copy / "tokens" / Path(made.receipt.uri).name), documents=["a.jsonl:2"])


def test_text_cannot_act_on_the_terminal() -> None:
    assert visible("a\tb\r\n\x1b[31m\x9b\u202eé 東\ufffd") == "a⇥b␍⏎\\x1b[31m\\x9b\\u202eé 東\ufffd"


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_shows_tables_samples_and_boundaries_at_any_width(width: int, made: Made) -> None:
    text = shown(inspect_dataset(made.receipt.uri, places=range(3)), width)
    assert re.search(r"^total +100.0\s%", text, re.MULTILINE)
    assert "\u2026 " not in text.split("place 0")[0]
    assert re.search(r"place 2 +\w+, epoch 0, sequence", text)
    assert "<|endoftext|>" in re.sub(r"\s*\n[│├└─ ]*", "", text)
    assert re.search(r"padding, \d+ tokens", text)
    assert "filter length left out 1" in re.sub(r"\s+", " ", text)
    assert "copies of held-out ones" in re.sub(r"\s+", " ", text)


def test_large_numbers_are_whole_on_eighty_columns(made: Made) -> None:
    inspection = inspect_dataset(made.receipt.uri)
    large = {"documents": 123_456_789, "sequences": 123_456_789, "cut_documents": 123_456_789, "tokens": 9_999_999_999}
    sources = [source.model_copy(update={**large, "name": "standard-library"}) for source in inspection.sources]
    text = shown(inspection.model_copy(update={"sources": sources}))
    row = next(line for line in text.splitlines() if "75.0" in line)
    assert re.sub(r"\s+", " ", row).split(" ", 1)[1].count("123 M") == 3
    assert "10.0\u00a0B" in row


def test_terminal_shows_the_document_alone_where_one_is_asked_for(made: Made) -> None:
    text = shown(inspect_dataset(made.receipt.uri, documents=[f"a.jsonl:{CODE.index(LONG) + 1}"]))
    assert "What it holds" not in text
    assert "kept: it is trained on" in text
    assert re.search(r"tokens 0 to 256 in sequence \d+, first read at --place \d+", text)


def test_command_prints_one_json_document_with_all_of_it(made: Made, run: str) -> None:
    result = CliRunner().invoke(app, ["data", "inspect", run, "--json", "--place", "4", "--document", "a.jsonl:2"])
    assert result.exit_code == 0
    found = Inspection.model_validate_json(result.stdout)
    assert found == inspect_dataset(run, places=[4], documents=["a.jsonl:2"])


def test_command_shows_three_samples_unless_told_otherwise(made: Made) -> None:
    def num_samples(*arguments: str) -> int:
        result = CliRunner().invoke(app, ["data", "inspect", made.receipt.uri, "--json", *arguments])
        return len(json.loads(result.stdout)["samples"])

    assert num_samples() == 3
    assert num_samples("--samples", "1") == 1
    assert num_samples("--document", "a.jsonl:2") == 0
    assert num_samples("--document", "a.jsonl:2", "--samples", "2") == 2


def test_command_refuses_what_is_no_mixture_in_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == "RecipeError"


@given(
    sources=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60)), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
def test_first_places_lead_back_to_their_sequences(sources: list[tuple[int, int]], seed: int) -> None:
    mixture = Mixture([(f"s{number}", weight, count) for number, (weight, count) in enumerate(sources)], seed)
    for name, count in zip(mixture.names, mixture.num_sequences, strict=True):
        places = first_places(mixture, name, range(count))
        assert sorted(places) == list(range(count))
        for sequence, place in places.items():
            assert tuple(mixture.locate(place)) == (name, 0, sequence)
