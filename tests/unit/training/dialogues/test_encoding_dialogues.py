"""Encoding a file of dialogues: what is too long loses whole turns, and everything is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_training import make_texts, make_tokenizer

from lemur.errors import TrainingError
from lemur.training.dialogues.chatml import encode_dialogue, prepare_tokenizer
from lemur.training.dialogues.encoding import EncodedDialogues, encode_dialogues

TOKENIZER = make_tokenizer(make_texts())
prepare_tokenizer(TOKENIZER)
SYSTEM = {"role": "system", "content": "Add."}
EXCHANGES = [
    [{"role": "user", "content": f"{number} + {number}?"}, {"role": "assistant", "content": str(2 * number)}]
    for number in range(4)
]


def encoded(folder: Path, dialogues: list[list[dict[str, Any]]], max_length: int) -> EncodedDialogues:
    source = folder / "dialogues.jsonl"
    source.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogues))
    return encode_dialogues(source, folder / "encoded", TOKENIZER, max_length=max_length)


def length(messages: list[dict[str, Any]]) -> int:
    return len(encode_dialogue(TOKENIZER, messages).token_ids)


def test_a_dialogue_that_is_too_long_keeps_whole_exchanges_and_the_system_message(tmp_path: Path) -> None:
    short, long = [SYSTEM, *EXCHANGES[0], *EXCHANGES[1]], [SYSTEM, *(turn for each in EXCHANGES for turn in each)]

    made = encoded(tmp_path, [long, short], max_length=length(short) + 3)

    whole = encode_dialogue(TOKENIZER, long)
    for number in range(2):
        token_ids, learned = made[number]
        assert token_ids.tolist() == whole.token_ids[: length(short)].tolist()
        assert learned.tolist() == whole.learned[: length(short)].tolist()
    assert TOKENIZER.decode(made[0][0]).startswith("<|im_start|>system\nAdd.<|im_end|>")
    assert TOKENIZER.decode(made[0][0]).endswith("<|im_start|>assistant\n2<|im_end|>\n")
    assert made.counts._asdict() == {
        "dialogues": 2,
        "tokens": 2 * length(short),
        "learned_tokens": 2 * int(encode_dialogue(TOKENIZER, short).learned.sum()),
        "cut": 1,
        "turns_dropped": 4,
        "tokens_dropped": length(long) - length(short),
        "too_long": 0,
    }


def test_a_dialogue_is_not_cut_behind_a_question_or_a_result(tmp_path: Path) -> None:
    called = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "run"},
        {"role": "tool", "content": "2 " * 20},
        {"role": "assistant", "content": "2"},
    ]

    made = encoded(tmp_path, [called], max_length=length(called) - 1)

    assert made.lengths.tolist() == [length(called[:2])]
    assert made.counts.turns_dropped == 2


def test_a_dialogue_whose_first_answer_does_not_fit_is_left_out(tmp_path: Path) -> None:
    endless = [EXCHANGES[0][0], {"role": "assistant", "content": "no " * 100}, *EXCHANGES[1]]

    made = encoded(tmp_path, [endless, EXCHANGES[2], endless, EXCHANGES[3]], max_length=64)

    assert len(made) == made.counts.dialogues == 2
    assert made.counts.too_long == 2
    assert made.counts.cut == 0
    assert made.origins([0, 1]) == ["line 2 of dialogues.jsonl", "line 4 of dialogues.jsonl"]


def test_nothing_that_fits_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of the 1 dialogues .* within 4 tokens; .*finetune\.max_length"):
        encoded(tmp_path, [EXCHANGES[0]], max_length=4)


def test_dialogues_that_quote_markup_stand_among_the_others(tmp_path: Path) -> None:
    quoting = [{"role": "user", "content": "what is <|im_end|>?"}, {"role": "assistant", "content": "an end"}]

    made = encoded(tmp_path, [EXCHANGES[0], quoting, EXCHANGES[1]], max_length=200)

    ends = [int((made[number][0] == TOKENIZER.eos_token_id).sum()) for number in range(3)]
    assert ends == [2, 2, 2]
    assert TOKENIZER.decode(made[1][0]).startswith("<|im_start|>user\nwhat is <|im_end|>?<|im_end|>")
    assert TOKENIZER.decode(made[2][0]).startswith("<|im_start|>user\n1 + 1?<|im_end|>")
