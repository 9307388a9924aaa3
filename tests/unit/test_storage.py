"""Storage behaves alike in a folder and in a bucket of a real S3 server, and says clearly what went wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemur.errors import IntegrityError, StorageError
from lemur.receipt import MANIFEST_NAME, StoredObject
from lemur.storage import open_storage
from lemur.storage.base import PARTIAL_PREFIX, ObjectInfo, Storage, in_parallel

MEGABYTE = 1024 * 1024


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Storage:
    """An empty storage of each kind."""
    if request.param == "file":
        return open_storage(str(tmp_path / "stored objects"))
    server = request.getfixturevalue("s3")
    server.use(monkeypatch)
    return open_storage(f"{server.new_bucket()}/some/prefix")


def _partials(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PARTIAL_PREFIX}*"))


def test_bytes_come_back_as_they_were_written(storage: Storage) -> None:
    stored = storage.write("folder/a name.txt", b"text")
    assert stored == StoredObject(name="folder/a name.txt", size_bytes=4, sha256=hashlib.sha256(b"text").hexdigest())
    assert storage.read("folder/a name.txt") == b"text"
    storage.write("folder/a name.txt", b"other")
    assert storage.read("folder/a name.txt") == b"other"


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 10), (3, 4), (9, 1)])
def test_a_part_of_an_object_comes_back(storage: Storage, start: int, length: int) -> None:
    storage.write("folder/data", b"0123456789")
    assert storage.read_range("folder/data", start, length) == b"0123456789"[start : start + length]


@pytest.mark.parametrize(("start", "length", "found"), [(0, 11, 10), (8, 5, 2), (10, 1, 0), (2_000, 3, 0)])
def test_a_part_that_an_object_does_not_hold_is_refused(storage: Storage, start: int, length: int, found: int) -> None:
    storage.write("folder/data", b"0123456789")
    message = f"folder/data was truncated: bytes {start:,} to {start + length:,} were asked for, and {found} of them"
    with pytest.raises(IntegrityError, match=message):
        storage.read_range("folder/data", start, length)


@pytest.mark.parametrize("size_bytes", [0, 1, 33 * MEGABYTE + 3])
def test_a_file_of_any_size_comes_back_with_its_digest(storage: Storage, tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(size_bytes))
    stored = storage.upload("objects/data", path)
    assert stored.size_bytes == size_bytes
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    storage.download("objects/data", tmp_path / "new folder" / "copy", stored)
    assert (tmp_path / "new folder" / "copy").read_bytes() == path.read_bytes()
    assert not _partials(tmp_path)


def test_an_empty_storage_lists_nothing_and_has_nothing(storage: Storage) -> None:
    assert storage.list() == []
    assert not storage.exists("a")
    storage.delete()


def test_listing_is_sorted_and_takes_prefixes_as_folders(storage: Storage) -> None:
    for name in ("b", "a/2", "a/1", "a/deep/3", "ab/4"):
        storage.write(name, name.encode())
    assert [found.name for found in storage.list()] == ["a/1", "a/2", "a/deep/3", "ab/4", "b"]
    assert storage.list("a") == [ObjectInfo("a/1", 3), ObjectInfo("a/2", 3), ObjectInfo("a/deep/3", 8)]
    assert storage.list("a/") == storage.list("a")
    assert storage.list("b") == [ObjectInfo("b", 1)]
    assert storage.list("c") == []
    assert storage.exists("a/1")
    assert not storage.exists("a")


def test_a_child_storage_sees_its_own_prefix(storage: Storage) -> None:
    child = storage.at("x/y")
    child.write("name", b"1")
    assert child.uri == f"{storage.uri}/x/y"
    assert child.uri_of("name") == f"{storage.uri}/x/y/name"
    assert storage.read("x/y/name") == b"1"
    assert open_storage(child.uri).read("name") == b"1"
    assert [found.name for found in child.list()] == ["name"]


def test_deleting_takes_a_prefix_and_leaves_its_neighbours(storage: Storage) -> None:
    for name in ("a/1", "a/2", "ab", "b"):
        storage.write(name, b"")
    storage.delete("a")
    assert [found.name for found in storage.list()] == ["ab", "b"]
    storage.delete("b")
    storage.delete("b")
    assert [found.name for found in storage.list()] == ["ab"]
    storage.delete()
    assert storage.list() == []


def test_keeping_some_deletes_the_rest(storage: Storage) -> None:
    for name in ("a/1", "a/2", "b"):
        storage.write(name, b"")
    storage.keep_only({"a/2"})
    assert [found.name for found in storage.list()] == ["a/2"]


def test_a_missing_object_is_named(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="folder/gone is missing"):
        storage.read("folder/gone")
    with pytest.raises(IntegrityError, match="folder/gone is missing"):
        storage.read_range("folder/gone", 0, 1)
    with pytest.raises(IntegrityError, match="folder/gone is missing"):
        storage.download("folder/gone", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"tex", "was truncated: it should have 4 bytes and has 3"), (b"TEXT", "was altered"), (b"text!", "is too long")],
)
def test_an_object_that_is_not_what_was_expected_is_refused(
    storage: Storage, tmp_path: Path, content: bytes, message: str
) -> None:
    expected = storage.write("folder/data", b"text")
    storage.write("folder/data", content)
    (tmp_path / "copy").write_bytes(b"before")
    with pytest.raises(IntegrityError, match=message) as caught:
        storage.download("folder/data", tmp_path / "copy", expected)
    assert str(caught.value).startswith(f"{storage.uri}/folder/data ")
    assert (tmp_path / "copy").read_bytes() == b"before"
    assert not _partials(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\nb",
        "a\0b",
        f"{PARTIAL_PREFIX}1",
        "x" * 256,
    ],
)
def test_a_name_that_could_leave_its_prefix_is_refused(storage: Storage, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot be the name of an object"):
        storage.write(name, b"")
    with pytest.raises(StorageError, match="cannot be the name of an object"):
        storage.upload(name, Path(__file__))
    with pytest.raises(StorageError, match="cannot be the name of an object"):
        storage.download(name, tmp_path / "copy")
    assert storage.list() == []


_SEGMENTS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\"), min_size=1, max_size=12)
_NAMES = st.lists(
    _SEGMENTS.filter(lambda segment: segment not in (".", "..") and segment.isprintable()), min_size=1, max_size=3
).map("/".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_NAMES, data=st.binary(max_size=200))
def test_any_bytes_come_back_under_any_name(storage: Storage, tmp_path: Path, name: str, data: bytes) -> None:
    storage.delete()
    stored = storage.write(name, data)
    assert storage.read(name) == data
    assert storage.exists(name)
    assert storage.list() == [ObjectInfo(name, len(data))]
    storage.download(name, tmp_path / "copy", stored)
    assert (tmp_path / "copy").read_bytes() == data


def test_a_reader_sees_the_old_object_or_the_new_one_and_nothing_between(storage: Storage, tmp_path: Path) -> None:
    versions = [bytes([value]) * (6 * MEGABYTE + value) for value in range(4)]
    storage.write("data", versions[0])
    finished = threading.Event()

    def write_all() -> None:
        for version in versions[1:]:
            (tmp_path / "version").write_bytes(version)
            storage.upload("data", tmp_path / "version")
        finished.set()

    writer = threading.Thread(target=write_all)
    writer.start()
    seen = 0
    while not finished.is_set():
        assert storage.read("data") in versions
        assert [found.name for found in storage.list()] == ["data"]
        seen += 1
    writer.join()
    assert seen
    assert storage.read("data") == versions[-1]


def test_an_object_that_is_replaced_during_its_download_is_never_mixed(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemur.storage.s3_download.RANGE_BYTES", MEGABYTE)
    old, new = bytes(12 * MEGABYTE), b"\xff" * (12 * MEGABYTE)
    storage.write("data", old)
    replaced = threading.Event()
    lock = threading.Lock()

    def replace(count: int) -> None:
        with lock:  # Holds up the other ranges too.
            if not replaced.is_set():
                replaced.set()
                storage.write("data", new)

    try:
        storage.download("data", tmp_path / "copy", on_bytes=replace)
    except StorageError as error:
        assert "PreconditionFailed" in str(error)  # noqa: PT017 - either outcome is right
        assert not (tmp_path / "copy").exists()
    else:
        assert (tmp_path / "copy").read_bytes() in (old, new)


def test_a_large_transfer_shows_its_progress_in_bytes(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemur.storage.base._PROGRESS_FROM_BYTES", MEGABYTE)
    monkeypatch.setenv("LEMUR_PROGRESS", str(tmp_path / "events"))
    (tmp_path / "data").write_bytes(bytes(2 * MEGABYTE))
    storage.upload("data", tmp_path / "data")
    storage.download("data", tmp_path / "copy")
    events = (tmp_path / "events").read_text()
    assert events.count('"event": "done"') == 2
    assert events.count('"completed": 2097152, "total": 2097152, "unit": "bytes"') >= 2


def test_every_spelling_of_a_place_has_one_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    folder = tmp_path.resolve()
    assert open_storage("runs/../my runs").uri == f"file://{folder}/my%20runs"
    assert open_storage(f"file://{folder}/my%20runs/").uri == f"file://{folder}/my%20runs"
    assert open_storage(f"file://{folder}/my runs").local_path("a/b") == folder / "my runs/a/b"
    assert open_storage("s3://bucket").uri == "s3://bucket"
    assert open_storage("s3://bucket//a//b/").uri == "s3://bucket/a/b"
    assert open_storage("s3://bucket").at("a").uri_of("b") == "s3://bucket/a/b"
    assert open_storage("s3://bucket").local_path() is None


@pytest.mark.parametrize("uri", ["", "gs://bucket/a", "file://host/a", "file://relative", "https://host/bucket"])
def test_a_uri_of_another_kind_is_answered_with_the_known_ones(uri: str) -> None:
    with pytest.raises(StorageError, match=r"s3://bucket/prefix, file:///absolute/folder .* or a plain path"):
        open_storage(uri)


def test_a_half_deleted_result_has_lost_its_manifest(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    others = [f"a/{number}" for number in range(12)]
    for name in (*others, f"a/{MANIFEST_NAME}"):
        storage.write(name, b"")
    # Immutable files stop the deletion half-way, as a lost connection would.
    paths = [tmp_path / name for name in others]
    if subprocess.run(["chattr", "+i", *paths], capture_output=True, check=False).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        with pytest.raises(StorageError, match="a cannot be used: Operation not permitted"):
            storage.delete("a")
        assert [found.name for found in storage.list()] == sorted(others)
    finally:
        subprocess.run(["chattr", "-i", *paths], check=True)


def test_a_full_disk_is_refused_before_writing_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    storage = open_storage(str(small_disk))
    stored = storage.write("small", b"kept")
    (tmp_path / "large").write_bytes(bytes(3 * MEGABYTE))
    for place in (
        lambda: storage.upload("a/large", tmp_path / "large"),
        lambda: storage.write("large", bytes(3145728)),
    ):
        with pytest.raises(
            StorageError, match=r"large does not fit: it needs 3,145,728 bytes and \S+ has 2,0.*make room"
        ):
            place()
    assert storage.list() == [ObjectInfo("small", 4)]
    assert not _partials(small_disk)
    storage.download("small", tmp_path / "copy", stored)


def test_a_disk_that_fills_up_during_the_writing_leaves_no_part(small_disk: Path, tmp_path: Path) -> None:
    storage = open_storage(str(small_disk))
    (tmp_path / "data").write_bytes(bytes(1536 * 1024))

    def fill(count: int) -> None:
        if not (small_disk / "other").exists():
            (small_disk / "other").write_bytes(bytes(MEGABYTE))

    with pytest.raises(StorageError, match="data does not fit: it needs 1,572,864 bytes"):
        storage.upload("data", tmp_path / "data", on_bytes=fill)
    assert not storage.exists("data")
    assert not _partials(small_disk)


def test_a_download_that_does_not_fit_is_refused(storage: Storage, small_disk: Path) -> None:
    storage.write("data", bytes(3 * MEGABYTE))
    with pytest.raises(StorageError, match="copy does not fit: it needs 3,145,728 bytes"):
        storage.download("data", small_disk / "copy")
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match="cannot be used: Read-only file system"):
        open_storage(str(small_disk)).write("a", b"")


def test_what_a_killed_writer_left_is_removed_and_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "stored"))
    program = """if True:
        import sys, time
        from pathlib import Path
        from lemur.storage.file import new_file
        with new_file(Path(sys.argv[1]), 3) as file:
            file.write(b"abc")
            print("half-way", flush=True)
            time.sleep(60)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "stored" / "a")], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    assert writer.stdout.readline() == "half-way\n"
    storage.keep_only(set())
    assert len(_partials(tmp_path)) == 1
    writer.kill()
    writer.wait()
    assert len(_partials(tmp_path)) == 1
    assert storage.list() == []
    storage.keep_only(set())
    assert not _partials(tmp_path)


def test_the_first_failure_drops_the_work_that_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("one")
        time.sleep(0.05)
        return item

    with pytest.raises(ValueError, match="one"):
        in_parallel(work, range(100), workers=2)
    assert len(begun) < 10
    assert in_parallel(lambda item: item * 2, range(5)) == [0, 2, 4, 6, 8]
