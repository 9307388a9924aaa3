"""When a result of an earlier run is trusted, on files and on S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemur.errors import IntegrityError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.results import DAMAGED_NAME, fetch, write_result
from lemur.reuse import damaged_objects, reuse
from lemur.storage import open_storage

KEY = "0123456789abcdef" * 4
PREFIX = "tokens/0123456789abcdef"


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Root URI of a storage."""
    if request.param == "file":
        return str(tmp_path / "storage")
    server = request.getfixturevalue("s3")
    server.use(monkeypatch)
    return str(server.new_bucket()) + "/lemur"


def write(root: str) -> Receipt:
    """Stores a result of two objects."""
    writer = write_result(root, prefix=PREFIX, kind="tokens", stage="mix", key=KEY, parents={})
    writer.add_bytes("a.bin", b"aaaa")
    writer.add_bytes("b.bin", b"bbbb")
    return writer.commit()


def notes(events: Path) -> list[str]:
    """Notes that were shown."""
    if not events.exists():
        return []
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [event["text"] for event in lines if event["event"] == "note"]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of the progress events."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("LEMUR_PROGRESS", str(path))
    return path


def test_a_whole_result_is_reused_and_that_is_said(root: str, events: Path) -> None:
    assert reuse(root, PREFIX, stage="mix") is None
    assert notes(events) == []
    receipt = write(root)
    assert reuse(root, PREFIX, stage="mix") == receipt
    assert notes(events) == [f"mix: unchanged, tokens at {receipt.uri}"]


@pytest.mark.parametrize("damage", ["missing object", "truncated object", "malformed manifest"])
def test_a_result_with_visible_damage_is_made_anew_and_that_is_said(root: str, events: Path, damage: str) -> None:
    receipt = write(root)
    stored = open_storage(receipt.uri)
    if damage == "missing object":
        stored.delete("a.bin")
    elif damage == "truncated object":
        stored.write("a.bin", b"aa")
    else:
        stored.write(MANIFEST_NAME, b"{")
    assert reuse(root, PREFIX, stage="mix") is None
    (note,) = notes(events)
    assert (MANIFEST_NAME if damage == "malformed manifest" else "a.bin") in note
    write(root)
    assert reuse(root, PREFIX, stage="mix") == receipt


def test_an_altered_object_that_a_reader_found_is_not_trusted_again(root: str, tmp_path: Path) -> None:
    receipt = write(root)
    open_storage(receipt.uri).write("a.bin", b"aaba")
    assert damaged_objects(receipt) == []
    with pytest.raises(IntegrityError, match=r"a\.bin was altered.*run again"):
        fetch(receipt, tmp_path / "copy")
    assert damaged_objects(receipt) == ["a.bin"]
    assert reuse(root, PREFIX, stage="pretrain") is None
    assert write(root) == receipt
    assert not open_storage(receipt.uri).exists(DAMAGED_NAME)
    assert reuse(root, PREFIX, stage="pretrain") == receipt


def test_an_object_that_was_altered_on_its_way_only_is_trusted_after_a_second_look(root: str) -> None:
    receipt = write(root)
    open_storage(receipt.uri).write(DAMAGED_NAME, b'["a.bin"]')
    assert damaged_objects(receipt) == []
    assert reuse(root, PREFIX, stage="mix") == receipt


def test_unreachable_storage_is_an_error_and_no_reason_to_work_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from lemur.errors import StorageError

    settings: dict[str, Any] = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    settings |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        reuse("s3://bucket/lemur", PREFIX, stage="mix")
