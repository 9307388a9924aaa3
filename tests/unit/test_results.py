"""A stored result is complete when its manifest exists, and never taken for good when it is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lemur.errors import IntegrityError, StorageError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.results import discard, fetch, find_result, lineage, read_manifest, write_result
from lemur.reuse import damaged_objects
from lemur.storage import open_storage
from lemur.storage.base import PARTIAL_PREFIX, Storage

PREFIX = "tokens/0123456789abcdef"
CONTENT = {"dataset.json": b"{}", "sequences/code/pieces.bin": b"0123456789", "tokenizer/tokenizer.json": b"{ }"}


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI of an empty storage of each kind."""
    if request.param == "file":
        return (tmp_path / "storage").as_uri()
    server = request.getfixturevalue("s3")
    server.use(monkeypatch)
    return f"{server.new_bucket()}/run"


def write(
    root: str,
    content: dict[str, bytes] | None = None,
    *,
    prefix: str = PREFIX,
    parents: dict[str, Receipt] | None = None,
) -> Receipt:
    writer = write_result(root, prefix=prefix, kind="tokens", stage="mix", key=prefix, parents=parents or {})
    for name, data in (CONTENT if content is None else content).items():
        writer.add_bytes(name, data)
    return writer.commit(metrics={"tokens": 10}, metadata={"seed": 1, "path": Path("a")})


def result_storage(receipt: Receipt) -> Storage:
    return open_storage(receipt.uri)


def test_a_result_is_found_and_fetched_as_it_was_written(root: str, tmp_path: Path) -> None:
    assert find_result(root, PREFIX) is None
    receipt = write(root)
    assert receipt.uri == f"{root}/{PREFIX}"
    assert (receipt.num_objects, receipt.size_bytes) == (3, 15)
    assert receipt.metrics == {"tokens": 10.0}
    assert receipt.metadata == {"seed": 1, "path": "a"}
    assert find_result(root, PREFIX) == receipt
    assert damaged_objects(receipt) == []
    folder = fetch(receipt, tmp_path / "fetched")
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    if root.startswith("file"):
        assert folder == result_storage(receipt).local_path()
        assert not (tmp_path / "fetched").exists()


def test_files_and_folders_become_objects_and_another_results_manifest_does_not(root: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "tokenizer").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "tokenizer" / "vocab.json").symlink_to(model / "config.json")
    (model / MANIFEST_NAME).write_text("of another result")
    (model / f"{PARTIAL_PREFIX}1").write_text("unfinished")
    writer = write_result(root, prefix="releases/a", kind="release", stage="publish", key="k", parents={})
    writer.add_folder(model, "model")
    writer.add_folder(model)
    writer.add("README.md", Path(__file__))
    receipt = writer.commit()
    names = [stored.name for stored in read_manifest(receipt.uri).objects]
    assert names == [
        "README.md",
        "config.json",
        "model/config.json",
        "model/tokenizer/vocab.json",
        "tokenizer/vocab.json",
    ]
    assert result_storage(receipt).read("README.md") == Path(__file__).read_bytes()


def test_some_objects_or_folders_can_be_fetched_alone(root: str, tmp_path: Path) -> None:
    receipt = write(root)
    result_storage(receipt).delete("sequences")
    folder = fetch(receipt, tmp_path, ["tokenizer", "dataset.json"])
    assert (folder / "tokenizer/tokenizer.json").read_bytes() == b"{ }"
    with pytest.raises(IntegrityError, match=r"has no object 'tokenize'; it has dataset\.json"):
        fetch(receipt, tmp_path, ["tokenize"])


def test_a_second_fetch_takes_what_the_first_left_and_mends_the_rest(s3_root: str, tmp_path: Path) -> None:
    receipt = write(s3_root)
    fetch(receipt, tmp_path)
    (tmp_path / "dataset.json").write_bytes(b"[]")
    untouched = (tmp_path / "sequences/code/pieces.bin").stat()
    fetch(receipt, tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == b"{}"
    assert (tmp_path / "sequences/code/pieces.bin").stat().st_mtime_ns == untouched.st_mtime_ns


@pytest.fixture
def s3_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server = request.getfixturevalue("s3")
    server.use(monkeypatch)
    return f"{server.new_bucket()}/run"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "is missing"),
        (b"01234", "was truncated: it should have 10 bytes and has 5"),
        (b"0123456789+", "is too long: it should have 10 bytes and has 11"),
        (b"0123456780", "was altered: it should have SHA-256 84d89877f0d4041efb6bf91a16f0248f2fd573e6af05"),
    ],
)
def test_a_damaged_object_is_refused_by_name_and_made_whole_by_writing_again(
    root: str, tmp_path: Path, damage: bytes | None, message: str
) -> None:
    receipt = write(root)
    name = "sequences/code/pieces.bin"
    if damage is None:
        result_storage(receipt).delete(name)
    else:
        result_storage(receipt).write(name, damage)
    with pytest.raises(IntegrityError) as caught:
        fetch(receipt, tmp_path)
    assert f"{receipt.uri}/{name} {message}" in str(caught.value)
    assert str(caught.value).endswith(f"run again: the next run makes {receipt.uri} anew")
    assert damaged_objects(receipt) == [name]
    again = write(root)
    assert again == receipt
    assert damaged_objects(receipt) == []
    assert (fetch(receipt, tmp_path) / name).read_bytes() == b"0123456789"


def test_a_result_without_a_manifest_does_not_count(root: str, tmp_path: Path) -> None:
    receipt = write(root)
    result_storage(receipt).delete(MANIFEST_NAME)
    assert find_result(root, PREFIX) is None
    assert damaged_objects(receipt) == [MANIFEST_NAME]
    message = f"{receipt.uri} has no manifest.json: it was never finished or was deleted; run again to make it"
    with pytest.raises(IntegrityError, match=message):
        read_manifest(receipt.uri)
    with pytest.raises(IntegrityError, match=message):
        fetch(receipt, tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b'{"kind": "tokens"}', b'{"format": "lemur/manifest/v2"}', b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_an_error_that_names_it(root: str, text: bytes) -> None:
    receipt = write(root)
    result_storage(receipt).write(MANIFEST_NAME, text)
    with pytest.raises(IntegrityError, match=r"manifest\.json is not a manifest .*; delete everything below") as caught:
        find_result(root, PREFIX)
    assert str(caught.value).startswith(f"{receipt.uri}/{MANIFEST_NAME} ")
    assert damaged_objects(receipt) == [MANIFEST_NAME]
    assert write(root) == receipt


def test_a_result_that_was_made_anew_is_not_taken_for_the_old_one(root: str, tmp_path: Path) -> None:
    old = write(root)
    new = write(root, {"dataset.json": b"[]"})
    assert new.digest != old.digest
    assert [found.name for found in result_storage(new).list()] == ["dataset.json", MANIFEST_NAME]
    with pytest.raises(IntegrityError, match=f"was made anew with other content: its digest should be {old.digest}"):
        fetch(old, tmp_path)
    assert damaged_objects(old) == [MANIFEST_NAME]


def test_the_old_manifest_goes_before_other_content_is_written(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = write(root)
    seen: list[bool] = []
    original = type(result_storage(receipt)).write

    def watched(storage: Storage, name: str, data: bytes) -> object:
        seen.append(storage.exists(MANIFEST_NAME))
        return original(storage, name, data)

    monkeypatch.setattr(type(result_storage(receipt)), "write", watched)
    write(root)
    assert seen == [True] * 4
    seen.clear()
    write(root, {**CONTENT, "dataset.json": b"[]"})
    assert seen == [False] * 4


def test_leftovers_of_an_unfinished_writing_are_gone_after_the_next(root: str) -> None:
    open_storage(root).write(f"{PREFIX}/sequences/code/firsts.bin", b"from a run that was killed")
    receipt = write(root)
    assert [found.name for found in result_storage(receipt).list()] == sorted([*CONTENT, MANIFEST_NAME])


def test_an_empty_result_is_a_result(root: str, tmp_path: Path) -> None:
    receipt = write(root, {})
    assert (receipt.num_objects, receipt.size_bytes) == (0, 0)
    fetch(receipt, tmp_path)
    assert damaged_objects(receipt) == []


def test_a_name_is_given_once_and_the_manifests_never(tmp_path: Path) -> None:
    writer = write_result(str(tmp_path), prefix="a", kind="scores", stage="evaluate", key="k", parents={})
    writer.add_bytes("a", b"")
    with pytest.raises(ValueError, match="has 'a' already"):
        writer.add("a", Path(__file__))
    with pytest.raises(ValueError, match=r"has 'manifest\.json' already"):
        writer.add_bytes(MANIFEST_NAME, b"")
    with pytest.raises(StorageError, match="cannot be the name"):
        writer.add_bytes("../a", b"")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_stored(tmp_path: Path, value: float) -> None:
    writer = write_result(str(tmp_path), prefix="a", kind="scores", stage="evaluate", key="k", parents={})
    writer.add_bytes("a", b"")
    with pytest.raises(ValueError, match=r"metric 'final_loss' of .* is (nan|inf)"):
        writer.commit(metrics={"final_loss": value})
    assert list(tmp_path.iterdir()) == []


def test_discarding_deletes_a_result_and_nothing_that_is_none(root: str) -> None:
    neighbour = write(root, prefix="tokens/neighbour")
    receipt = write(root)
    discard(receipt)
    assert find_result(root, PREFIX) is None
    assert result_storage(receipt).list() == []
    assert damaged_objects(neighbour) == []
    with pytest.raises(IntegrityError, match="is not a result; nothing was deleted"):
        discard(root)
    assert damaged_objects(neighbour) == []
    discard(neighbour.uri)
    assert open_storage(root).list() == []


def test_lineage_names_each_ancestor_once_and_parents_first(root: str) -> None:
    tokens = write(root, {"a": b"tokens"}, prefix="tokens/1")
    dialogues = write(root, {"a": b"dialogues"}, prefix="dialogues/1")
    base = write(root, {"a": b"base"}, prefix="checkpoints/1", parents={"tokens": tokens})
    chat = write(root, {"a": b"chat"}, prefix="checkpoints/2", parents={"base": base, "dialogues": dialogues})
    scores = write(root, {"a": b"scores"}, prefix="scores/1", parents={"model": chat, "baseline": base, "held": tokens})
    found = lineage(scores)
    assert list(found.values()) == [tokens, base, dialogues, chat]
    assert list(found) == [ancestor.digest for ancestor in found.values()]
    assert lineage(tokens) == {}
    write(root, {"a": b"other"}, prefix="tokens/1")
    with pytest.raises(IntegrityError, match=f"{tokens.uri} was made anew"):
        lineage(scores)
    discard(tokens.uri)
    with pytest.raises(IntegrityError, match=rf"{tokens.uri} has no manifest\.json"):
        lineage(scores)


_WRITER = """if True:
    import sys, time
    from pathlib import Path
    from lemur.results import write_result
    from lemur.storage import open_storage
    storage = type(open_storage(sys.argv[1]))
    upload = storage.upload
    # Slow enough to be killed on the way.
    storage.upload = lambda *arguments, **named: time.sleep(0.05) or upload(*arguments, **named)
    writer = write_result(sys.argv[1], prefix=sys.argv[2], kind="tokens", stage="mix", key="k", parents={})
    for number in range(40):
        writer.add(f"{number:05}.bin", Path(sys.argv[3]))
    print("writing", flush=True)
    print(writer.commit().digest, flush=True)
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_that_is_killed_leaves_no_result_and_the_next_one_completes_it(
    root: str, tmp_path: Path, kill: signal.Signals
) -> None:
    (tmp_path / "data").write_bytes(os.urandom(2 * 1024 * 1024))
    command = [sys.executable, "-c", _WRITER, root, PREFIX, str(tmp_path / "data")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    storage = open_storage(root).at(PREFIX)
    while len(storage.list()) < 4:
        time.sleep(0.01)
    writer.send_signal(kill)
    assert writer.wait() != 0
    assert 4 <= len(storage.list()) < 40
    assert find_result(root, PREFIX) is None
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    receipt = find_result(root, PREFIX)
    assert receipt
    assert finished.stdout.split()[-1] == receipt.digest
    assert damaged_objects(receipt) == []
    assert len(storage.list()) == 41
    assert not list(tmp_path.rglob(f"{PARTIAL_PREFIX}*"))


def test_a_full_disk_leaves_no_result_and_room_lets_the_next_writing_finish(small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_500_000))
    content = {"a": b"1", "b": bytes(1_000_000), "c": b"2"}
    root = str(small_disk / "storage")
    with pytest.raises(StorageError, match=r"storage/tokens/0123456789abcdef/b does not fit: it needs 1,000,000 bytes"):
        write(root, content)
    assert find_result(root, PREFIX) is None
    assert not list(small_disk.rglob(f"{PARTIAL_PREFIX}*"))
    (small_disk / "ballast").unlink()
    assert damaged_objects(write(root, content)) == []


def test_writing_to_an_unreachable_server_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"http://127.0.0.1:9 for s3://bucket/{PREFIX}/manifest.json: .*refused"):
        write("s3://bucket")
    with pytest.raises(StorageError, match="cannot reach the S3 server"):
        find_result("s3://bucket", PREFIX)
    assert time.monotonic() - began < 15


def test_a_receipt_that_travelled_as_a_file_still_fetches(root: str, tmp_path: Path) -> None:
    receipt = write(root)
    receipt.save(tmp_path / "artifacts" / "tokens.json")
    loaded = Receipt.load(tmp_path / "artifacts" / "tokens.json")
    assert loaded == receipt
    folder = fetch(loaded, tmp_path / "fetched")
    assert json.loads((folder / "dataset.json").read_text()) == {}


def test_a_folder_that_may_be_moved_is_stored_as_a_copy_would_be(root: str, tmp_path: Path) -> None:
    receipts = []
    for move in (False, True):
        folder = tmp_path / f"made-{move}"
        (folder / "inner").mkdir(parents=True)
        (folder / "a.bin").write_bytes(b"x" * 3_000_000)
        (folder / "inner" / "b.json").write_bytes(b"{}")
        writer = write_result(root, prefix=f"tokens/{move}", kind="tokens", stage="mix", key="k", parents={})
        writer.add_folder(folder, move=move)
        receipts.append(writer.commit())
        assert (folder / "a.bin").exists() is (not move or root.startswith("s3://"))

    assert receipts[0].digest == receipts[1].digest
    stored = fetch(receipts[1], tmp_path / "fetched")
    assert (stored / "a.bin").read_bytes() == b"x" * 3_000_000
    assert not damaged_objects(receipts[1])
