"""What the server refuses: in OpenAI's error shape, by the field at fault, and before any work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from tiny_model import DIALOGUES, MAX_LENGTH, say


def refused(error: type[openai.APIStatusError], client: OpenAI, **request) -> dict:
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": "tiny", "prompt": "x", **request})
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value.body


def test_a_request_longer_than_the_context_is_refused_with_the_figures(client: OpenAI) -> None:
    body = refused(openai.BadRequestError, client, max_tokens=MAX_LENGTH)
    assert body["code"] == "context_length_exceeded"
    assert "257 tokens (1 in the prompt, 256 for the answer)" in body["message"]
    assert refused(openai.BadRequestError, client, prompt=" zq" * 200)["code"] == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256"):
        say(client, "zq " * 200)


def test_a_huge_prompt_is_refused_at_once(client: OpenAI) -> None:
    started = time.monotonic()
    assert refused(openai.BadRequestError, client, prompt="ab " * 3_500_000)["code"] == "context_length_exceeded"
    assert time.monotonic() - started < 3


def test_a_prompt_may_fill_the_whole_context_when_it_is_only_scored(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=[5] * MAX_LENGTH, max_tokens=0, echo=True, logprobs=0)
    assert len(answer.choices[0].logprobs.tokens) == MAX_LENGTH


def test_another_models_name_is_not_found(client: OpenAI) -> None:
    body = refused(openai.NotFoundError, client, model="gpt-4")
    assert body["message"] == "The model `gpt-4` does not exist; this server has `tiny`."


@pytest.mark.parametrize(
    ("request_fields", "said"),
    [
        ({"temperature": -1}, "`temperature`"),
        ({"top_p": 0}, "`top_p`"),
        ({"n": 0}, "`n`"),
        ({"max_tokens": -3}, "`max_tokens`"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [1, 99999]}, "token id 99999"),
        ({"extra_body": {"best_of": 4}}, "`best_of` is not supported"),
        ({"presence_penalty": 0.5}, "`presence_penalty` is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_field(client: OpenAI, request_fields: dict, said: str) -> None:
    assert said in refused(openai.BadRequestError, client, **request_fields)["message"]


def test_settings_that_ask_for_nothing_are_taken(client: OpenAI) -> None:
    extras = {"presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "user": "me"}
    assert say(client, "hi", extra_body=extras).choices[0].message.content == DIALOGUES["hi"]


def test_messages_in_parts_are_joined_and_pictures_refused(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert say(client, parts).choices[0].message.content == DIALOGUES["hi"]
    with pytest.raises(openai.BadRequestError, match="not text"):
        say(client, [{"type": "image_url", "image_url": {"url": "x"}}])


def test_broken_bodies_and_wrong_paths_get_openais_error_shape(server: str) -> None:
    json_header = {"Content-Type": "application/json"}
    for content, said in [
        (b'{"model": "tiny", ', "The body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": "tiny"}', "`prompt`"),
    ]:
        answer = httpx.post(f"{server}/completions", content=content, headers=json_header)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]
    plain = httpx.post(f"{server}/completions", data={"model": "tiny"})
    assert "Content-Type: application/json" in plain.json()["error"]["message"]
    lost = httpx.get(f"{server}/nothing")
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "invalid_request_error")


def test_a_model_without_a_chat_template_is_refused_on_chat_and_answers_completions(
    model_folder: Path, tmp_path: Path
) -> None:
    from lemur.serving.model import load_model
    from lemur.serving.protocol import ApiError, ChatRequest, CompletionRequest
    from lemur.serving.request_reader import RequestReader

    folder = tmp_path / "base"
    shutil.copytree(model_folder, folder)
    (folder / "chat_template.jinja").unlink()
    reader = RequestReader(load_model(folder), "base")
    with pytest.raises(ApiError, match=r"has no chat template.*Use /v1/completions") as caught:
        reader.read_chat(ChatRequest(model="base", messages=[{"role": "user", "content": "hi"}]))
    assert caught.value.status == 400
    assert reader.read_completion(CompletionRequest(model="base", prompt="hi")).prompts[0].token_ids
