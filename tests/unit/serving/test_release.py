"""Releases: what is in them, who is refused, and how they are found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_model import DIALOGUES

from lemur.errors import GateError, IntegrityError, ServingError
from lemur.receipt import Receipt
from lemur.results import write_result
from lemur.run_record import RunRecord
from lemur.serving.locate import find_release
from lemur.serving.release import publish, release_prefix
from lemur.storage import open_storage

RECIPE = {
    "name": "tiny",
    "model": {"start": {"kind": "random", "seed": 0}},
    "pretrain": {"tokens": 1000, "learning_rate": 0.01},
    "finetune": {"epochs": 2.0},
    "serving": {"runtime": {"kind": "transformers", "max_length": 128}},
}


def figure(value: float) -> dict[str, Any]:
    shared = {"num_samples": 50, "better": "lower", "unit": "bits per byte", "method": "bootstrap over documents"}
    return {"value": value, "low": value - 0.1, "high": value + 0.1, **shared}


class FinishedRun:
    """A storage with everything a run makes before it publishes."""

    def __init__(self, storage: str, model_folder: Path) -> None:
        self.storage = storage
        self._model_folder = model_folder
        counts = {"group": "code", "weight": 1.0, "documents": 10, "tokens": 12345, "bytes": 40000}
        heldout = {"heldout_documents": 2, "heldout_bytes": 300, "unreadable": 0}
        tokens = self._stored(
            "tokens", "mix", {}, metrics={"tokens": 12345, "documents": 10, "bytes": 40000},
            metadata={"sources": {"library | std": {**counts, **heldout}}, "vocab_size": 320},
        )  # fmt: skip
        dialogues = self._stored("dialogues", "mix", {}, metadata={"sources": {"skill": {"dialogues": 77}}})
        initial = self._model("initial", {})
        base = self._model("base", {"tokens": tokens, "initial": initial})
        self.chat = self._model("chat", {"base": base, "dialogues": dialogues})
        models = {"initial": (initial, 9.0), "base": (base, 4.5), "chat": (self.chat, 4.25)}
        self.scores = {
            role: self._stored(
                f"scores_{role}", "evaluate", {"model": model, "tokens": tokens}, kind="scores",
                metadata={"role": role, "figures": {"bits_per_byte": {"bits_per_byte_code": figure(value)}}},
            )
            for role, (model, value) in models.items()
        }  # fmt: skip

    def verdict(self, outcome: str, *, accepted: bool) -> Receipt:
        rule = {"outcome": outcome, "sentence": f"bits per byte 4.25: {outcome}"}
        metadata = {"outcome": outcome, "accepted": accepted, "confidence": 0.95, "rules": [rule]}
        return self._stored(f"verdict_{outcome}", "gate", self.scores, kind="verdict", metadata=metadata)

    def publish(self) -> Receipt:
        verdict = self.verdict("pass", accepted=True)
        return publish(name="tiny", storage=self.storage, chat=self.chat, verdict=verdict)

    def _model(self, role: str, parents: dict[str, Receipt]) -> Receipt:
        training = {"steps": 10, "tokens": 2560, "method": "full", "precision": "float32", "device": "cpu"}
        return self._stored(
            role, "pretrain" if role != "chat" else "finetune", parents, kind="checkpoint", folder=self._model_folder,
            metrics={"final_loss": 1.5, "tokens_per_second": 1e4, "mfu": 0.3, "seconds": 2.5},
            metadata={"role": role, "num_parameters": 28_896, "processes": 1, "versions": {"torch": "2"}, **training},
        )  # fmt: skip

    def _stored(
        self,
        name: str,
        stage: str,
        parents: dict[str, Receipt],
        *,
        kind: Any = None,
        folder: Path | None = None,
        **facts: Any,
    ) -> Receipt:
        writer = write_result(
            self.storage, prefix=f"results/{name}", kind=kind or name, stage=stage, key=name * 4, parents=parents
        )
        if folder:
            writer.add_folder(folder)
            writer.add_bytes("metrics.jsonl", name.encode())
        else:
            writer.add_bytes("data", name.encode())
        return writer.commit(**facts)


@pytest.fixture
def run(tmp_path: Path, model_folder: Path) -> FinishedRun:
    return FinishedRun(f"file://{tmp_path}/storage", model_folder)


def test_a_release_loads_with_transformers_and_answers(run: FinishedRun) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_release(run.publish().uri)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert tokenizer.decode(made) == DIALOGUES["hi"] + "<|im_end|>"


def test_a_release_has_the_models_files_the_card_and_the_lineage_and_no_training_data(run: FinishedRun) -> None:
    release = run.publish()
    folder = find_release(release.uri)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"}
    assert names >= {"chat_template.jinja", "README.md", "receipts.json", "manifest.json"}
    assert "metrics.jsonl" not in names
    receipts = [Receipt.model_validate(one) for one in json.loads((folder / "receipts.json").read_text())]
    digests = [receipt.digest for receipt in receipts]
    assert len(receipts) == 9
    assert run.chat.digest in digests
    for index, receipt in enumerate(receipts):
        assert {parent.digest for parent in receipt.parents.values()} <= set(digests[:index])
    assert set(release.parents) == {"chat", "verdict"}


def test_the_model_card_tells_the_figures_of_the_receipts(run: FinishedRun) -> None:
    RunRecord(run.storage, "tiny").begin(recipe=RECIPE, plan={})
    release = run.publish()
    card = (find_release(release.uri) / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert "base_model" not in yaml.safe_load(head)
    assert "| library \\| std | code | 100.00 % | 12,345 | 10 | 40,000 | 2 |" in body
    assert (
        "| bits_per_byte | bits_per_byte_code | bits per byte, lower is better | 9 (8.9 to 9.1) | 4.5 (4.4 to 4.6)"
        in body
    )
    assert "pass: bits per byte 4.25: pass" in body
    assert "learning_rate `0.01`" in body
    assert run.chat.digest in body
    assert f"lemur serve {release.uri}" in body
    for table in body.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1, table


def test_the_card_names_the_base_model_of_a_pretrained_start(run: FinishedRun) -> None:
    start = {"kind": "pretrained", "name": "meta-llama/Llama-2-70b-hf"}
    RunRecord(run.storage, "tiny").begin(recipe={**RECIPE, "model": {"start": start}}, plan={})
    head = (find_release(run.publish().uri) / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["base_model"] == "meta-llama/Llama-2-70b-hf"


@pytest.mark.parametrize("outcome", ["fail", "cannot_tell"])
def test_a_model_that_did_not_pass_is_not_published(run: FinishedRun, outcome: str) -> None:
    verdict = run.verdict(outcome, accepted=False)
    with pytest.raises(GateError, match=f"tiny is not published.*{outcome.replace('_', ' ')}\n  bits per byte 4.25"):
        publish(name="tiny", storage=run.storage, chat=run.chat, verdict=verdict)
    assert not open_storage(run.storage).list("releases")


def test_a_verdict_that_the_recipe_accepts_is_published_and_says_so(run: FinishedRun) -> None:
    verdict = run.verdict("cannot_tell", accepted=True)
    release = publish(name="tiny", storage=run.storage, chat=run.chat, verdict=verdict)
    assert "**cannot tell** (accepted" in (find_release(release.uri) / "README.md").read_text()


def test_publishing_again_gives_the_same_release(run: FinishedRun) -> None:
    first = run.publish()
    assert run.publish() == first
    prefix = release_prefix("tiny", chat=run.chat, verdict=run.verdict("pass", accepted=True))
    assert first.uri.endswith(prefix)
    assert prefix.startswith("releases/tiny-")


def test_a_damaged_checkpoint_is_refused_by_name_and_nothing_is_released(run: FinishedRun) -> None:
    path = Path(run.chat.uri.removeprefix("file://")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"chat/model.safetensors"):
        run.publish()
    assert not open_storage(run.storage).at("releases").list()


def test_a_run_stands_for_its_release_and_without_one_for_its_model(
    run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RunRecord(run.storage, "tiny")
    record.keep("chat", run.chat)
    assert find_release(record.uri) == Path(run.chat.uri.removeprefix("file://"))
    assert "no release" in capsys.readouterr().err
    release = run.publish()
    record.keep("release", release)
    assert find_release(record.uri.removeprefix("file://")) == Path(release.uri.removeprefix("file://"))


def test_a_release_in_object_storage_is_brought_to_the_cache_whole(
    s3: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    monkeypatch.setenv("LEMUR_CACHE", str(tmp_path / "cache"))
    run = FinishedRun(f"{s3.new_bucket()}/lemur", model_folder)
    release = run.publish()
    RunRecord(run.storage, "tiny").keep("release", release)
    folder = find_release(f"{run.storage}/runs/tiny")
    assert folder.parent == tmp_path / "cache"
    assert (folder / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    (folder / "config.json").write_text("{}")
    assert find_release(release.uri) == folder
    assert (folder / "config.json").read_bytes() == (model_folder / "config.json").read_bytes()


def test_a_plain_model_folder_is_taken_as_it_is(model_folder: Path) -> None:
    assert find_release(str(model_folder)) == model_folder


def test_what_is_no_release_is_refused_with_what_was_looked_for(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"manifest.json, receipts/release.json.*config.json.*Give a release"):
        find_release(str(tmp_path / "nothing"))
    with pytest.raises(ServingError, match="kind 'scores'"):
        find_release(run.scores["chat"].uri)


def test_an_altered_release_is_not_served(run: FinishedRun) -> None:
    release = run.publish()
    path = Path(release.uri.removeprefix("file://")) / "config.json"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lemur"))
    with pytest.raises(IntegrityError, match=r"config.json"):
        find_release(release.uri)
