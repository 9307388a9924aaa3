"""A whole run, and what may happen to it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemur.run_record import TASKS
from tests.e2e.conftest import LEMUR, Workplace, small_recipe


@pytest.fixture
def again(finished: Workplace, tmp_path: Path) -> Workplace:
    """A copy of a finished run, whose results a test may damage or remove."""
    shutil.copytree(finished.storage, tmp_path / "artifacts")
    recipe = json.loads(json.dumps(finished.recipe))
    return Workplace(tmp_path, recipe)


def remove(workplace: Workplace, *tasks: str) -> None:
    """Removes results, as if the run had not come to them."""
    for task in tasks:
        if task == "documents":
            shutil.rmtree(workplace.storage / task)
            continue
        receipt = json.loads((workplace.record / "receipts" / f"{task}.json").read_text(encoding="utf-8"))
        shutil.rmtree(workplace.local(receipt["uri"]))


def progressed(task: str, completed: int = 0) -> Callable[[list[dict[str, Any]]], bool]:
    """The moment when a task has done so much."""
    return lambda events: any(event.get("task") == task and event["completed"] >= completed for event in events)


def test_a_run_makes_everything_and_says_where(finished: Workplace) -> None:
    assert sorted(finished.digests()) == sorted(TASKS)
    assert "<html" in (finished.record / "report.html").read_text(encoding="utf-8")
    output = finished.run()
    assert "lemur serve artifacts/runs/small" in output
    assert "lemur chat http://127.0.0.1:8000/v1" in output
    assert "artifacts/runs/small/report.html" in output
    assert "bits_per_byte_code" in output


def test_a_second_run_makes_nothing_again_and_says_so(again: Workplace) -> None:
    before = again.digests()
    output = again.run()
    assert again.digests() == before
    for stage in ("partition", "tokenize", "mix", "pretrain", "finetune", "evaluate base", "gate", "publish", "serve"):
        assert f"{stage}: unchanged" in output
    assert not [event for event in again.events if event.get("unit") in {"steps", "tokens", "samples"}]


def test_json_output_is_one_document(again: Workplace) -> None:
    process = again.start("--json")
    output = process.communicate(timeout=240)[0]
    document = json.loads(output[output.index("\n{") :])
    assert document["report"].endswith("report.html")


def test_the_release_loads_with_transformers_and_replies_end_by_themselves(finished: Workplace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    receipt = json.loads((finished.record / "receipts" / "release.json").read_text(encoding="utf-8"))
    folder = receipt["uri"].removeprefix("file://")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for name in ("code", "expressions", "bits_per_byte"):
        assert name in card


def test_the_release_is_served_and_answers_as_the_readme_says(finished: Workplace) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (curl,) = re.findall(r"^```console\n(curl .*?)^```$", readme, re.DOTALL | re.MULTILINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = subprocess.Popen([LEMUR, "serve", str(finished.record), "--port", str(port)], stderr=subprocess.PIPE)
    try:
        assert served.stderr is not None
        while b"is served at" not in (line := served.stderr.readline()):
            assert line, "the server ended"
        answer = subprocess.run(
            ["bash", "-c", curl.replace(":8000", f":{port}")], capture_output=True, text=True, check=True
        )
        assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant", answer.stdout
        url = f"http://127.0.0.1:{port}/v1"
        said = subprocess.run([LEMUR, "chat", url, "--message", "print(3 < 7)"], capture_output=True, check=True)
        assert said.stdout.strip()
    finally:
        served.terminate()
        served.wait(30)


def test_a_run_that_is_asked_to_stop_in_training_stores_a_checkpoint_and_goes_on_from_it(
    again: Workplace, finished: Workplace
) -> None:
    expected = finished.models()
    remove(again, "base", "chat", "release")
    process = again.start()
    moment, deadline = progressed("pretrain", 13), time.monotonic() + 180
    while not moment(again.events):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    output = process.communicate(timeout=120)[0]

    assert process.returncode == 130, output
    assert "stopping: training at work stores a checkpoint first" in output
    (note,) = [event["text"] for event in again.events if event.get("text", "").startswith("asked to stop")]
    step = int(note.rpartition(" ")[2])
    assert 13 <= step < 40
    output = again.run()
    assert f"pretrain: going on from the checkpoint of step {step}" in output
    assert again.models() == expected


def test_a_refused_model_is_not_published(again: Workplace) -> None:
    again.recipe["gate"]["rules"] = [{"benchmark": "expressions", "metric": "accuracy", "minimum": 0.999}]
    (again.storage / "releases").rename(again.folder / "aside")
    output = again.run(exit_code=3)
    assert "accuracy" in output
    assert "0.999" in output
    assert not (again.storage / "releases").exists()
    assert "verdict" in again.digests()
    assert "release" not in again.digests()
    assert "0.999" in (again.record / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("removed", "moment"),
    [
        ([*TASKS, "documents"], progressed("tokenize")),
        (["base"], progressed("pretrain", 25)),
        (["chat"], progressed("finetune", 12)),
        (["release"], lambda events: any(e["event"] == "stage" and e["name"] == "publish" for e in events)),
    ],
    ids=["tokenize", "pretrain", "finetune", "publish"],
)
def test_a_killed_run_goes_on_and_ends_the_same(
    again: Workplace, removed: list[str], moment: Callable[[list[dict[str, Any]]], bool]
) -> None:
    wanted = again.models()
    remove(again, *removed)
    again.kill_when(moment)
    again.run()
    assert again.models() == wanted
    assert set(again.digests()) == set(TASKS)


def test_corrupted_tokens_are_named_and_mended_by_the_next_run(again: Workplace) -> None:
    wanted = again.models()
    tokens = max((again.storage / "documents").glob("*/tokens.bin"), key=lambda path: path.stat().st_size)
    content = bytearray(tokens.read_bytes())
    content[1000] ^= 1
    tokens.write_bytes(content)
    remove(again, "base", "initial")
    output = again.run(exit_code=5)
    assert f"{tokens.parent.name}/{tokens.name}" in output
    assert "run again" in output
    again.run()
    assert again.models() == wanted


def test_a_missing_checkpoint_object_is_named_and_made_again(again: Workplace) -> None:
    wanted = again.models()
    receipt = json.loads((again.record / "receipts" / "base.json").read_text(encoding="utf-8"))
    (again.local(receipt["uri"]) / "model.safetensors").unlink()
    output = again.run()
    assert "model.safetensors" in output
    assert again.models() == wanted


def test_unreachable_storage_is_one_clear_error(tmp_path: Path, corpus: Path) -> None:
    keys = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
    }
    workplace = Workplace(tmp_path, small_recipe("s3://bucket/prefix", corpus), keys)
    started = time.monotonic()
    output = workplace.run(exit_code=4)
    assert time.monotonic() - started < 60
    assert "127.0.0.1:9" in output
    assert "Traceback" not in output


def test_a_full_disk_is_one_clear_error_and_room_mends_it(small_disk: Path, again: Workplace) -> None:
    wanted = again.models()
    again.recipe["storage"] = str(small_disk)
    output = again.run(exit_code=4)
    assert str(small_disk) in output
    assert "Traceback" not in output
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again.run()
    assert again.models() == wanted


def test_a_run_on_object_storage_ends_the_same(s3: Any, finished: Workplace, tmp_path: Path, corpus: Path) -> None:
    recipe = {**finished.recipe, "storage": s3.new_bucket() + "/lemur"}
    workplace = Workplace(tmp_path, recipe, s3.environment)
    output = workplace.run()
    assert "s3://" in output
    assert "unchanged" not in output
    assert "pretrain: unchanged" in workplace.run()


def test_two_runs_of_one_name_do_not_mix(again: Workplace) -> None:
    remove(again, "base")
    first = again.start()
    try:
        while not progressed("pretrain")(again.events):
            time.sleep(0.05)
        output = again.run(exit_code=1)
        assert "is going on" in output
    finally:
        first.terminate()
        assert first.wait(30) == 130


def test_an_impossible_recipe_is_refused_before_work_starts(tmp_path: Path, corpus: Path) -> None:
    workplace = Workplace(tmp_path, small_recipe("artifacts", corpus))
    workplace.recipe["data"]["sources"][0]["kind"] = "jsonll"
    workplace.recipe["pretrain"]["tokns"] = 5
    output = workplace.run(exit_code=2)
    assert "jsonll" in output
    assert "parquet" in output
    assert "tokns" in output
    assert not workplace.storage.exists()


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['lemur', '--help']\n"
        "from lemur.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'kfp', 'pydantic', 'minio', 'inspect_ai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_explains_itself() -> None:
    listing = subprocess.run([LEMUR, "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("plan", "run", "serve", "chat", "report", "schema"):
        assert command in listing
        shown = subprocess.run([LEMUR, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "Usage" in shown


def test_yaml_of_the_small_recipe_is_valid(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_recipe("artifacts", corpus)), encoding="utf-8")
    planned = subprocess.run([LEMUR, "plan", str(path), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(planned.stdout)["problems"] == []
