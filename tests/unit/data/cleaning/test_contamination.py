"""Contamination: what of a benchmark is found in documents, in whichever form it stands there."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lemur.data.cleaning import ngrams
from lemur.data.cleaning.benchmark_texts import benchmark_records, benchmarks_fingerprint
from lemur.data.cleaning.contamination import ContaminationIndex, Match
from lemur.errors import RecipeError
from lemur.recipe.data import Decontamination

QUESTION = "A robe takes two bolts of blue fiber and half that much white fiber. How many bolts in total?"
SHORT_QUESTION = "Which of these planets has the most moons?"
CHOICES = ["Mars", "Jupiter", "Saturn", "Uranus and its ring"]
FILLER = "Nothing in this sentence has been asked by anybody, and nothing ever will be. "


def index_of(tmp_path: Path, *records: object, ngram_words: int = 13) -> ContaminationIndex:
    path = tmp_path / "benchmark.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return ContaminationIndex.build({"riddles": str(path)}, ngram_words=ngram_words)


@pytest.mark.parametrize(
    "planted",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n    # "),
        QUESTION.replace(" ", "\u00a0").replace(".", "\u2026"),
        "> *" + QUESTION.replace(" ", "*  _"),
    ],
)
def test_a_text_is_found_whatever_its_case_layout_and_punctuation(planted: str, tmp_path: Path) -> None:
    index = index_of(tmp_path, {"question": QUESTION})

    found = index.find(FILLER * 3 + planted + FILLER)

    assert found == Match("riddles", "a robe takes two bolts of blue fiber and half that much white")


def test_thirteen_words_in_a_row_are_needed_and_twelve_are_not_enough(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"question": QUESTION})
    words = QUESTION.split()

    assert index.find(" ".join(["some", *words[3:16], "thing"]))
    assert not index.find(" ".join(["some", *words[3:15], "thing"]))
    assert not index.find(" ".join([*words[:9], "really", *words[9:12]]))
    assert index_of(tmp_path, {"question": QUESTION}, ngram_words=5).find(" ".join(["some", *words[3:8], "thing"]))


def test_part_of_a_word_is_not_the_word(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"question": "one two three four five six seven eight nine ten eleven twelve thirteen"})

    assert index.find("x one two three four five six seven eight nine ten eleven twelve thirteen x")
    assert not index.find("xone two three four five six seven eight nine ten eleven twelve thirteen x")
    assert not index.find("x one two three four five six seven eight nine ten eleven twelve thirteenth x")
    assert not index.find("one two three four five six")


def test_a_shorter_text_counts_as_a_whole_from_eight_words_on(tmp_path: Path) -> None:
    index = index_of(tmp_path, SHORT_QUESTION, "Which of these stars is the brightest one?", "What is a planet?")

    assert index.find(FILLER + SHORT_QUESTION + FILLER) == Match("riddles", "which of these planets has the most moons")
    assert not index.find(SHORT_QUESTION.replace("moons", "rings"))
    assert not index.find("What is a planet?")
    assert (index.num_records, index.num_too_short) == ({"riddles": 3}, {"riddles": 1})


def test_texts_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    index = index_of(tmp_path, *(f"Which of these planets has the most moons {what}?" for what in ("of all", "by far")))

    assert index.find("Which of these planets has the most moons of all?")
    assert index.find(FILLER + "Which of these planets has the most moons by far?")
    assert not index.find("Which of these planets has the most moons?")
    assert index.find_many(["Which of these planets has the most moons", "of all"]) == [None, None]


@pytest.mark.parametrize(
    "planted",
    [
        "Planets with moons?\nA. Mars\nB. Jupiter\nC. Saturn\nD. Uranus and its ring\nAnswer: C",
        "planets with moons? (A) Mars (B) Jupiter (C) Saturn (D) Uranus and its ring",
        "Planets with moons?,Mars,Jupiter,Saturn,Uranus and its ring",
    ],
)
@pytest.mark.parametrize("name", ["quiz.csv", "quiz.json"])
def test_a_short_question_is_found_with_its_choices(planted: str, name: str, tmp_path: Path) -> None:
    record = {"question": "Planets with moons?", "choices": CHOICES, "answer": 2}
    text = json.dumps([record]) if name == "quiz.json" else "Planets with moons?," + ",".join(CHOICES) + ",C\n"
    (tmp_path / name).write_text(text)
    index = ContaminationIndex.build({"quiz": str(tmp_path)}, ngram_words=9)

    assert index.find(FILLER + planted + "\n" + FILLER)
    assert not index.find("Planets with moons?\n" + FILLER)


def test_numbers_and_single_letters_in_a_row_count_for_nothing_where_there_is_more(tmp_path: Path) -> None:
    counting = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"
    index = index_of(
        tmp_path,
        {"code": f"assert total([{counting}]) == 120", "question": QUESTION},
        {"question": "Add.", "choices": ["46,911", "653,092", "699,903", "700,003", "913,203", "1,122,202"]},
        {"question": counting},
    )

    assert not index.find(counting)
    assert index.find(QUESTION)
    assert index.find("Add. 46,911; 653,092; 699,903; 700,003; 913,203; 1,122,202")
    assert index.num_too_short == {"riddles": 1}


def test_equal_hashes_of_different_words_drop_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_no_hash(words: ngrams.Words, firsts: slice, lasts: slice) -> ngrams.Hashes:
        return words.begins[firsts].astype(ngrams.np.uint64) * 0 + 7

    monkeypatch.setattr(ngrams.Words, "stretch_hashes", nearly_no_hash)
    index = index_of(tmp_path, "alpha beta gamma delta epsilon zeta", ngram_words=6)

    assert not index.find("eta theta iota kappa lambda mu nu xi omicron pi rho sigma")


def test_many_documents_give_what_each_of_them_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        " ".join(random.Random(seed).choices("abcdefghijklmnop", k=1)) + f" {QUESTION} {seed}" for seed in range(3)
    ]
    index = index_of(tmp_path, *records, SHORT_QUESTION)
    texts = [FILLER * (number % 7) + [QUESTION, "", FILLER, SHORT_QUESTION, "x"][number % 5] for number in range(100)]

    found = index.find_many(texts)

    assert found == [index.find(text) for text in texts]
    assert [match is not None for match in found[:5]] == [True, False, False, True, False]
    assert index.find(FILLER * 20_000 + QUESTION + FILLER * 20_000) == found[0]
    monkeypatch.setattr(ngrams, "BLOCK_BYTES", 300)
    assert index.find_many(texts) == found
    assert index.find_many([]) == []


def test_a_saved_index_is_the_same_and_so_are_its_bytes(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"question": QUESTION}, SHORT_QUESTION, "too short")
    index.save(tmp_path / "first.npz")
    time.sleep(0.01)
    loaded = ContaminationIndex.load(tmp_path / "first.npz")
    loaded.save(tmp_path / "second.npz")

    texts = [QUESTION, SHORT_QUESTION, FILLER]
    assert loaded.find_many(texts) == index.find_many(texts)
    assert (loaded.ngram_words, loaded.num_records, loaded.num_too_short) == (13, {"riddles": 3}, {"riddles": 1})
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def compressed(compress: Callable[[bytes], bytes]) -> Callable[[Path, str], object]:
    return lambda path, text: path.write_bytes(compress(text.encode()))


FORMATS: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "nested.json": (Path.write_text, json.dumps({"version": 3, "tasks": {"one": [{"turns": [{"says": QUESTION}]}]}})),
    "lines.json": (Path.write_text, json.dumps({"q": "other"}) + "\n\n " + json.dumps({"q": QUESTION}) + "\n"),
    "lines.jsonl": (Path.write_text, json.dumps("other") + "\r\n" + json.dumps([1, None, [QUESTION]])),
    "lines.jsonl.gz": (compressed(gzip.compress), json.dumps({"q": QUESTION})),
    "lines.jsonl.zst": (compressed(zstandard.ZstdCompressor().compress), json.dumps({"q": QUESTION})),
    "half.json": (Path.write_text, f'["\\ud800 {QUESTION}"]'),
    "rows.csv": (Path.write_text, f'number,question\n1,"{QUESTION}"\n'),
    "rows.TSV": (Path.write_text, f"1\t{QUESTION}\n"),
    "mark.csv": (Path.write_text, f"\ufeff{QUESTION},A\n"),
    "text.txt": (Path.write_text, f"Question:\n{QUESTION}\n"),
    "text.md": (Path.write_text, f"# Question\n> {QUESTION}\n"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("as_folder", [True, False])
def test_every_format_is_read_wherever_the_text_stands_in_it(name: str, as_folder: bool, tmp_path: Path) -> None:
    write, text = FORMATS[name]
    path = tmp_path / "deep" / "er" / name
    path.parent.mkdir(parents=True)
    write(path, text)

    index = ContaminationIndex.build({"riddles": str(tmp_path if as_folder else path)}, ngram_words=13)

    assert index.find(QUESTION) == Match("riddles", "a robe takes two bolts of blue fiber and half that much white")


def test_what_is_about_a_benchmark_is_no_part_of_it(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE.txt", ".hidden.txt", ".git/objects.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(FILLER)
    (tmp_path / "problems.txt").write_text(QUESTION)

    assert not ContaminationIndex.build({"riddles": str(tmp_path)}, ngram_words=13).find(FILLER)
    assert ContaminationIndex.build({"riddles": str(tmp_path / "README.md")}, ngram_words=13).find(FILLER)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "gone.jsonl does not exist"),
        ("broken.json", b'{"question": ', "broken.json cannot be read as JSON"),
        ("broken.csv", b"\xff\xfe", "broken.csv cannot be read as CSV: 'utf-8'"),
        (
            "short.jsonl.gz",
            gzip.compress(b'{"question": "x"}' * 999, mtime=0)[:-20],
            "short.jsonl.gz cannot be read as JSONL",
        ),
        ("plain.txt.gz", b"plain", "plain.txt.gz is no gzip file"),
        ("picture.png", b"x", "picture.png is of no known format"),
        ("empty.jsonl", b"", "holds no text: .*empty.jsonl"),
        ("numbers.json", b"[1, 2]", "holds no text: .*numbers.json"),
        ("folder/picture.png", b"x", "no file below .*folder is of a known format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_benchmark_that_cannot_be_read_is_refused_by_name(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    root = path if path.parent == tmp_path else path.parent

    with pytest.raises(RecipeError, match=message) as refused:
        ContaminationIndex.build({"riddles": str(root)}, ngram_words=13)

    assert "'riddles'" in str(refused.value)


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    def fingerprint(folder: str, content: str, name: str = "a.txt") -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(content)
        return benchmarks_fingerprint(Decontamination(benchmarks={"riddles": str(tmp_path / folder)}))

    first = fingerprint("one", "some words")

    assert fingerprint("two", "some words") == first
    assert fingerprint("one", "other words") != first
    assert fingerprint("two", "more words", "b.txt") != first
    with pytest.raises(RecipeError, match="does not exist"):
        benchmarks_fingerprint(Decontamination(benchmarks={"riddles": str(tmp_path / "three")}))


def test_records_keep_what_stands_together(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"q": "one", "choices": ["two", "three"], "more": [{"r": "four"}]}))

    assert [record.texts for record in benchmark_records("riddles", str(tmp_path))] == [
        ("four",),
        ("one", "two", "three"),
    ]
