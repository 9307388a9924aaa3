"""Large objects: any size comes back whole, broken parts are sent again, and memory stays bounded."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cutting_proxy import CuttingProxy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from minio import Minio
from minio.error import S3Error

from lemur.errors import StorageError
from lemur.receipt import StoredObject
from lemur.storage import Storage, open_storage
from lemur.storage.growing import GrowingFile
from lemur.storage.s3_client import S3Settings, s3_client, s3_connections
from lemur.storage.s3_object import S3Object
from lemur.storage.s3_upload import MAX_BUFFERED_BYTES, NUM_PARALLEL_PARTS, PART_BYTES, part_bytes_of

if TYPE_CHECKING:
    from conftest import S3Server

MEGABYTE = 1024 * 1024


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Storage:
    """An empty storage of each kind."""
    if request.param == "file":
        return open_storage(str(tmp_path / "stored"))
    server = request.getfixturevalue("s3")
    server.use(monkeypatch)
    return open_storage(f"{server.new_bucket()}/prefix")


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    s3.use(monkeypatch)
    return s3.new_bucket()


def _unfinished(s3: S3Server, bucket: str) -> list[object]:
    client = Minio(s3.endpoint.removeprefix("http://"), s3.access_key, s3.secret_key, secure=False, region="us-east-1")
    return list(client._list_multipart_uploads(bucket.removeprefix("s3://")).uploads)


# As small as S3 lets a part be.
_SMALL_PART = 5 * MEGABYTE
_AROUND_PARTS = st.builds(lambda parts, more: max(0, parts * _SMALL_PART + more), st.integers(0, 2), st.integers(-2, 2))


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(size=_AROUND_PARTS | st.integers(0, 2 * _SMALL_PART), seed=st.integers(0, 2**32))
def test_any_size_around_the_borders_of_parts_comes_back(
    storage: Storage, tmp_path: Path, size: int, seed: int
) -> None:
    data = random.Random(seed).randbytes(size)
    (tmp_path / "data").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lemur.storage.s3_upload.PART_BYTES", _SMALL_PART)
        patch.setattr("lemur.storage.s3_upload.CHUNK_BYTES", _SMALL_PART // 7)
        patch.setattr("lemur.storage.s3_download.RANGE_BYTES", 2 * _SMALL_PART // 3)
        stored = storage.upload("data", tmp_path / "data")
        assert stored == StoredObject(name="data", size_bytes=size, sha256=hashlib.sha256(data).hexdigest())
        storage.download("data", tmp_path / "copy", stored)
        assert (tmp_path / "copy").read_bytes() == data


def test_parts_are_never_more_than_s3_takes() -> None:
    for size in (0, PART_BYTES, 10_000 * PART_BYTES, 10_000 * PART_BYTES + 1, 5 * 1024**4):
        part = part_bytes_of(size)
        assert part % MEGABYTE == 0
        assert -(-size // part) <= 10_000
    assert part_bytes_of(10_000 * PART_BYTES) == PART_BYTES


@pytest.mark.parametrize("harms", ["requests", "answers"])
def test_a_part_whose_connection_breaks_is_sent_again(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harms: str
) -> None:
    data = random.Random(1).randbytes(3 * PART_BYTES + 5)
    (tmp_path / "data").write_bytes(data)
    after = 2 * MEGABYTE if harms == "requests" else 0
    proxy = CuttingProxy(s3.endpoint, num_cuts=2, after_bytes=after, harms=harms, only=b"PUT")  # type: ignore[arg-type]
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    counted: list[int] = []
    open_storage(bucket).upload("data", tmp_path / "data", on_bytes=counted.append)
    assert proxy.cuts_left == 0
    assert sum(counted) == len(data)
    s3.use(monkeypatch)
    assert open_storage(bucket).read("data") == data


@pytest.mark.parametrize("size", [3 * PART_BYTES, PART_BYTES // 2])
def test_what_is_damaged_on_the_way_is_refused_by_the_server_and_sent_again(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    data = random.Random(2).randbytes(size)
    proxy = CuttingProxy(s3.endpoint, num_cuts=1, after_bytes=MEGABYTE, harms="bits", only=b"PUT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    open_storage(bucket).write("data", data)
    assert proxy.cuts_left == 0
    s3.use(monkeypatch)
    assert open_storage(bucket).read("data") == data


def test_an_upload_whose_last_answer_is_lost_counts(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(3).randbytes(2 * PART_BYTES)
    key = f"/{bucket.removeprefix('s3://')}/data"
    proxy = CuttingProxy(s3.endpoint, num_cuts=1, after_bytes=0, only=f"POST {key}?uploadId".encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    open_storage(bucket).write("data", data)
    assert proxy.cuts_left == 0
    s3.use(monkeypatch)
    assert open_storage(bucket).read("data") == data


def test_an_upload_that_the_server_forgot_counts_where_its_object_stands(bucket: str) -> None:
    settings, process = S3Settings.find(), os.getpid()
    client, connections = s3_client(settings, process), s3_connections(process)
    target = S3Object(settings, client, connections, bucket.removeprefix("s3://"), "data")
    upload = target.begin()
    parts = [target.put_part(upload, 1, memoryview(bytes(5 * MEGABYTE))), target.put_part(upload, 2, memoryview(b"2"))]
    with pytest.raises(S3Error, match="NoSuchUpload"):
        target.finish(f"{upload}0", parts)
    target.finish(upload, parts)
    target.finish(f"{upload}0", parts)
    with pytest.raises(S3Error, match="NoSuchUpload"):
        target.finish(f"{upload}0", parts[:1])


def test_an_upload_that_fails_leaves_no_parts(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(bytes(4 * PART_BYTES))

    def break_off(count: int) -> None:
        assert _unfinished(s3, bucket)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_storage(bucket).upload("data", tmp_path / "data", on_bytes=break_off)
    assert not _unfinished(s3, bucket)
    assert open_storage(bucket).list() == []


def test_a_file_that_becomes_shorter_is_not_stored(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8 * PART_BYTES))

    def cut(count: int) -> None:
        os.truncate(tmp_path / "data", PART_BYTES)

    with pytest.raises(StorageError, match="became shorter while it was"):
        storage.upload("data", tmp_path / "data", on_bytes=cut)
    assert not storage.exists("data")


def test_an_interrupted_download_asks_only_for_the_rest(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = 24 * MEGABYTE
    stored = open_storage(bucket).write("data", random.Random(4).randbytes(size))
    proxy = CuttingProxy(s3.endpoint, num_cuts=2, after_bytes=8 * MEGABYTE)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    open_storage(bucket).download("data", tmp_path / "copy", stored)
    assert proxy.cuts_left == 0
    # What was in the sockets when they broke came in vain; starting anew twice would be 40 megabytes.
    assert proxy.answered_bytes < 32 * MEGABYTE
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == stored.sha256


_MEMORY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lemur.storage import open_storage

def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024

storage, source, copy = open_storage(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
storage.write("warm", b"1")
storage.exists("warm")
before = peak()
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    stored = list(pool.map(lambda n: storage.upload(str(n), source, on_bytes=lambda c: None), range(int(sys.argv[4]))))
after_upload = peak()
storage.download("0", copy, stored[0], on_bytes=lambda c: None)
print(after_upload - before, peak() - before)
"""


@pytest.mark.parametrize("num_uploads", [1, 6])
def test_memory_does_not_grow_with_the_object(bucket: str, tmp_path: Path, num_uploads: int) -> None:
    source = tmp_path / "source"
    size = 240 * MEGABYTE if num_uploads == 1 else 80 * MEGABYTE
    with source.open("wb") as file:
        file.truncate(size)
    command = [sys.executable, "-c", _MEMORY, bucket, str(source), str(tmp_path / "copy"), str(num_uploads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    upload, both = map(int, done.stdout.split())
    one = (NUM_PARALLEL_PARTS + 1) * PART_BYTES
    # Sockets, threads and the pieces being read come on top.
    assert one // 2 < upload < min(num_uploads * one, MAX_BUFFERED_BYTES) + 24 * MEGABYTE
    assert both < min(num_uploads * one, MAX_BUFFERED_BYTES) + 24 * MEGABYTE


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "growing", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 5000), max_size=12), order=st.randoms(use_true_random=False))
def test_the_digest_follows_ranges_in_any_order(descriptor: int, lengths: list[int], order: random.Random) -> None:
    data = order.randbytes(sum(lengths))
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    ranges = list(zip(starts, lengths, strict=True))
    order.shuffle(ranges)
    growing = GrowingFile(descriptor, len(data))
    with growing.following():
        for start, length in ranges:
            os.pwrite(descriptor, data[start : start + length], start)
            growing.wrote(start, length)
    assert growing.sha256 == hashlib.sha256(data).hexdigest()


def test_a_digest_ends_where_the_writing_fails(descriptor: int) -> None:
    growing = GrowingFile(descriptor, 10)
    with pytest.raises(KeyboardInterrupt), growing.following():
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_follow)")]
