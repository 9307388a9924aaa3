"""The server, asked over real sockets by OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from tiny_model import DIALOGUES, MAX_LENGTH, say


@pytest.mark.parametrize("question", DIALOGUES)
def test_a_reply_ends_by_itself_at_the_end_of_the_message(client: OpenAI, question: str) -> None:
    choice = say(client, question).choices[0]
    assert choice.message.content == DIALOGUES[question]
    assert choice.finish_reason == "stop"


def test_a_streamed_reply_is_the_whole_one_in_pieces_without_broken_characters(client: OpenAI) -> None:
    stream = say(client, "café?", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == DIALOGUES["café?"]
    assert len(pieces) > 4
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == say(client, "café?").usage


def test_streams_of_several_choices_and_prompts_do_not_mix(client: OpenAI) -> None:
    texts: dict[int, str] = {}
    settings = {"max_tokens": 12, "temperature": 1, "seed": 3, "n": 2}
    for chunk in client.completions.create(model="tiny", prompt=["Hello", "I am"], stream=True, **settings):
        texts[chunk.choices[0].index] = texts.get(chunk.choices[0].index, "") + chunk.choices[0].text
    whole = client.completions.create(model="tiny", prompt=["Hello", "I am"], **settings)
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert sorted(texts) == [0, 1, 2, 3]


def test_usage_counts_each_prompt_once_and_every_answer(client: OpenAI) -> None:
    one = client.completions.create(model="tiny", prompt="Hello", max_tokens=5, n=3, extra_body={"ignore_eos": True})
    ids = len(
        client.completions.create(model="tiny", prompt="Hello", max_tokens=0, echo=True, logprobs=0)
        .choices[0]
        .logprobs.tokens
    )
    assert one.usage.prompt_tokens == ids
    assert one.usage.completion_tokens == 15
    assert one.usage.total_tokens == ids + 15


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(client: OpenAI, stream: bool) -> None:
    answer = say(client, "count", stop=["e four", "six"], stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == ("one two thre", "stop")


def test_a_single_stop_string_and_max_tokens_are_taken(client: OpenAI) -> None:
    assert say(client, "hi", stop=",").choices[0].message.content == "Hello there"
    cut = say(client, "count", max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 3


def test_seeds_repeat_draws_and_choices_differ(client: OpenAI) -> None:
    def drawn(seed: int) -> list[str]:
        answer = client.completions.create(
            model="tiny", prompt="zzz", temperature=2.0, max_tokens=20, seed=seed, n=3, extra_body={"ignore_eos": True}
        )
        return [choice.text for choice in answer.choices]

    first = drawn(1)
    assert drawn(1) == first
    assert drawn(2) != first
    assert len(set(first)) == 3


def test_top_p_near_zero_is_greedy(client: OpenAI) -> None:
    assert say(client, "count", temperature=1.5, top_p=1e-6).choices[0].message.content == DIALOGUES["count"]


def test_prompt_scores_are_the_models_own(client: OpenAI, model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["Hello there, friend.", "naïve 🦊🦊 ünïcödé text that is longer than the others", "x", "one two"]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    answer = client.completions.create(model="tiny", prompt=texts, max_tokens=0, echo=True, logprobs=2)
    for text, choice in zip(texts, answer.choices, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model(ids).logits.log_softmax(-1)
        assert choice.text == text
        assert choice.logprobs.token_logprobs[0] is None
        wanted = expected[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(wanted, abs=1e-4)
        best = expected[0, :-1].max(-1).values.tolist()
        assert [max(top.values()) for top in choice.logprobs.top_logprobs[1:]] == pytest.approx(best, abs=1e-4)


def test_offsets_count_characters_of_the_prompt_where_tokens_split_them(client: OpenAI) -> None:
    text = "a 🦊é\u0301漢字\n<|im_start|> x"
    logprobs = (
        client.completions.create(model="tiny", prompt=text, max_tokens=1, echo=True, logprobs=0).choices[0].logprobs
    )
    data, reached = text.encode(), 0
    pieces = [
        bytes.fromhex(token.removeprefix("bytes:").replace("\\x", "")) if token.startswith("bytes:") else token.encode()
        for token in logprobs.tokens
    ][:-1]
    assert b"".join(pieces) == data
    for piece, offset in zip(pieces, logprobs.text_offset, strict=False):
        whole = data[:reached].decode(errors="ignore")
        assert offset == len(whole)
        reached += len(piece)
    assert logprobs.text_offset[-1] == len(text)


def test_a_prompt_of_token_ids_is_the_prompt_of_their_text(client: OpenAI, model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = [tokenizer("Hello 🦊").input_ids, tokenizer("one two").input_ids]
    settings = {"model": "tiny", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
    by_ids = client.completions.create(prompt=ids, **settings)
    by_text = client.completions.create(prompt=["Hello 🦊", "one two"], **settings)
    assert [choice.text for choice in by_ids.choices] == [choice.text for choice in by_text.choices]
    assert [choice.logprobs.text_offset for choice in by_ids.choices] == [
        c.logprobs.text_offset for c in by_text.choices
    ]
    single = client.completions.create(prompt=ids[0], **settings)
    assert single.choices[0].text == by_text.choices[0].text


def test_chat_log_probabilities_belong_to_the_reply(client: OpenAI) -> None:
    content = say(client, "hi", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    said = b"".join(bytes(entry.bytes) for entry in content).decode()
    assert said == DIALOGUES["hi"] + "<|im_end|>"
    assert all(len(entry.top_logprobs) == 2 and entry.logprob == entry.top_logprobs[0].logprob for entry in content)


def test_answers_made_together_are_the_answers_made_alone(client: OpenAI) -> None:
    prompts = [text[:length] for text in DIALOGUES.values() for length in (1, 2, 5, 9, 14)]

    def answer(prompt: str) -> str:
        settings = {"max_tokens": 30, "temperature": 0, "extra_body": {"ignore_eos": True}}
        return client.completions.create(model="tiny", prompt=prompt, **settings).choices[0].text

    alone = [answer(prompt) for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(answer, prompts)) == alone


def test_requests_of_all_kinds_share_the_server(client: OpenAI) -> None:
    def one(index: int) -> bool:
        match index % 4:
            case 0:
                return say(client, "hi").choices[0].message.content == DIALOGUES["hi"]
            case 1:
                pieces = [chunk.choices[0].delta.content or "" for chunk in say(client, "count", stream=True)]
                return "".join(pieces) == DIALOGUES["count"]
            case 2:
                scored = client.completions.create(model="tiny", prompt="a b c", max_tokens=0, echo=True, logprobs=0)
                return scored.choices[0].text == "a b c"
            case _:
                drawn = client.completions.create(model="tiny", prompt="x", temperature=1, seed=index, max_tokens=index)
                return drawn.usage.completion_tokens <= index

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(96)))


def test_batching_makes_many_requests_cheaper_than_one_by_one(client: OpenAI) -> None:
    def answer(_: int) -> None:
        client.completions.create(model="tiny", prompt="x", max_tokens=200, extra_body={"ignore_eos": True})

    started = time.monotonic()
    for index in range(3):
        answer(index)
    alone = (time.monotonic() - started) / 3
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(answer, range(12)))
    assert time.monotonic() - started < alone * 8


def test_a_request_that_comes_later_does_not_wait_for_a_long_answer(client: OpenAI) -> None:
    long = {"max_tokens": 240, "extra_body": {"ignore_eos": True}}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.completions.create, model="tiny", prompt="x", n=32, **long)
        time.sleep(0.05)
        assert say(client, "hi", max_tokens=1).usage.completion_tokens == 1
        assert future.result().usage.completion_tokens == 32 * 240


def test_a_client_that_leaves_frees_its_place(client: OpenAI) -> None:
    stream = client.completions.create(
        model="tiny", prompt="x", max_tokens=240, n=100, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).completions.create(
            model="tiny", prompt="x", max_tokens=240, n=100, extra_body={"ignore_eos": True}
        )
    started = time.monotonic()
    say(client, "hi")
    assert time.monotonic() - started < 2


def test_an_open_last_message_is_continued(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "one two three"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = client.chat.completions.create(model="tiny", messages=messages, temperature=0, extra_body=extra)
    assert answer.choices[0].message.content == DIALOGUES["count"].removeprefix("one two three")


def test_health_and_the_model_list_answer(server: str, client: OpenAI) -> None:
    assert httpx.get(server.removesuffix("/v1") + "/health").json() == {"status": "ok"}
    (listed,) = client.models.list().data
    assert (listed.id, listed.model_extra["max_model_len"]) == ("tiny", MAX_LENGTH)


def test_a_stream_ends_with_done(server: str) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2, "stream": True}
    lines = [line for line in httpx.post(f"{server}/completions", json=body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["object"] == "text_completion" for line in lines[:-1])
