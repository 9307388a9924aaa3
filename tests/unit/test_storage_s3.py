"""What can go wrong between here and an S3 server, and what the user is told."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cutting_proxy import CuttingProxy

from lemur.errors import StorageError
from lemur.receipt import MANIFEST_NAME
from lemur.storage import Storage, open_storage
from lemur.storage.s3_client import S3Settings

if TYPE_CHECKING:
    from conftest import S3Server

_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT",
    "S3_USE_HTTPS",
    "LEMUR_S3_SECRET_DIR",
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server whose queue is full: connections are neither taken nor refused."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(4):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(listening.getsockname())
            waiting.append(connection)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for connection in waiting:
            connection.close()


def _calls(storage: Storage, tmp_path: Path) -> dict[str, Callable[[], object]]:
    (tmp_path / "file").write_bytes(b"1")
    return {
        "read": lambda: storage.read("data"),
        "read_range": lambda: storage.read_range("data", 0, 1),
        "write": lambda: storage.write("data", b"1"),
        "upload": lambda: storage.upload("data", tmp_path / "file"),
        "download": lambda: storage.download("data", tmp_path / "copy"),
        "exists": lambda: storage.exists("data"),
        "list": lambda: storage.list("data"),
        "delete": lambda: storage.delete("data"),
    }


_METHODS = ("read", "read_range", "write", "upload", "download", "exists", "list", "delete")


@pytest.mark.parametrize("method", _METHODS)
def test_a_missing_bucket_is_named_and_not_made(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    s3.use(monkeypatch)
    storage = open_storage("s3://no-such-bucket/prefix")
    with pytest.raises(StorageError, match=f"there is no bucket 'no-such-bucket' at {s3.endpoint}; make it"):
        _calls(storage, tmp_path)[method]()


@pytest.mark.parametrize("method", _METHODS)
def test_a_wrong_key_is_named_with_bucket_and_endpoint(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    with pytest.raises(StorageError) as caught:
        _calls(open_storage(bucket), tmp_path)[method]()
    assert str(caught.value).startswith(f"{s3.endpoint} refused {bucket}/data (bucket '{bucket[5:]}')")
    assert "access key 'somebody' from the environment" in str(caught.value)


def test_a_wrong_secret_is_told_and_not_shown(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    storage = open_storage(bucket)
    with pytest.raises(StorageError, match="the secret key does not belong to this access key") as caught:
        storage.read("data")
    assert "not-the-secret" not in str(caught.value)
    assert "not-the-secret" not in repr(S3Settings.find())


def test_a_key_that_may_only_read_reads_and_is_refused_to_write(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    open_storage(bucket).write("data", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.reader_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.reader_secret_key)
    storage = open_storage(bucket)
    assert storage.read("data") == b"1"
    with pytest.raises(StorageError, match=r"refused .*/other .*may not do this \(AccessDenied\)"):
        storage.write("other", b"1")
    with pytest.raises(StorageError, match="AccessDenied"):
        storage.delete()
    assert storage.exists("data")


def test_missing_credentials_are_answered_with_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY .*LEMUR_S3_SECRET_DIR \(unset"
    ):
        open_storage("s3://bucket/prefix")
    monkeypatch.setenv("LEMUR_S3_SECRET_DIR", str(tmp_path / "secret"))
    with pytest.raises(StorageError, match=f"the folder {tmp_path}/secret"):
        open_storage("s3://bucket/prefix")


def test_a_mounted_secret_opens_the_bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As the kubelet mounts it: the files are links through a folder that is swapped when the secret changes.
    (tmp_path / "..data").mkdir()
    for name, value in s3.environment.items():
        (tmp_path / "..data" / name).write_text(f"{value}\n")
        (tmp_path / name).symlink_to(f"..data/{name}")
    monkeypatch.setenv("LEMUR_S3_SECRET_DIR", str(tmp_path))
    storage = open_storage(s3.new_bucket())
    storage.write("data", b"1")
    assert storage.read("data") == b"1"


def test_keys_of_the_environment_come_before_the_mounted_ones_and_are_not_mixed_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        (tmp_path / name).write_text("mounted")
    (tmp_path / "S3_ENDPOINT").write_text("minio.kubeflow:9000")
    (tmp_path / "S3_USE_HTTPS").write_text("0")
    monkeypatch.setenv("LEMUR_S3_SECRET_DIR", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment")
    settings = S3Settings.find()
    assert (settings.access_key, settings.secret_key, settings.session_token) == ("environment", "environment", None)
    assert settings.endpoint == "http://minio.kubeflow:9000"
    assert settings.region == "us-east-1"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000/path", "ftp://host", "http://"])
def test_an_endpoint_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match="cannot be an S3 endpoint: write AWS_ENDPOINT_URL as http://host:port"):
        open_storage("s3://bucket/prefix")


def _assert_unreachable(
    method: Callable[[], object], endpoint: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError) as caught:
        method()
    assert time.monotonic() - began < 16
    assert str(caught.value).startswith(f"cannot reach the S3 server {endpoint} for s3://bucket/prefix/data: ")
    assert "check that it runs" in str(caught.value)
    assert "object at 0x" not in str(caught.value)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", _METHODS)
def test_an_unreachable_server_gives_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    method: str,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    _assert_unreachable(_calls(open_storage("s3://bucket/prefix"), tmp_path)[method], endpoint, caplog, capfd)


def test_a_server_that_never_takes_the_connection_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch,
    silent_server: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_server)
    storage = open_storage("s3://bucket/prefix")
    _assert_unreachable(lambda: storage.read("data"), silent_server, caplog, capfd)


def test_a_download_whose_connection_breaks_goes_on_where_it_was(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    data = os.urandom(8 * 1024 * 1024)
    stored = open_storage(bucket).write("data", data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", CuttingProxy(s3.endpoint, num_cuts=2, after_bytes=2_000_000).endpoint)
    open_storage(bucket).download("data", tmp_path / "copy", stored)
    assert (tmp_path / "copy").read_bytes() == data


def test_a_part_whose_connection_breaks_is_asked_for_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    data = os.urandom(4 * 1024 * 1024)
    open_storage(bucket).write("data", data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", CuttingProxy(s3.endpoint, num_cuts=2, after_bytes=1_000_000).endpoint)
    assert open_storage(bucket).read_range("data", 1_000_000, 3_000_000) == data[1_000_000:4_000_000]


def test_a_connection_that_keeps_breaking_is_given_up_with_one_error(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    stored = open_storage(bucket).write("data", bytes(8 * 1024 * 1024))
    proxy = CuttingProxy(s3.endpoint, num_cuts=1000, after_bytes=1_000_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    with pytest.raises(
        StorageError, match=f"cannot reach the S3 server {proxy.endpoint} for {bucket}/data: .*[Bb]roken"
    ):
        open_storage(bucket).download("data", tmp_path / "copy", stored)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        StorageError, match=f"cannot reach the S3 server {proxy.endpoint} for {bucket}/data: .*[Bb]roken"
    ):
        open_storage(bucket).read("data")


def test_something_else_at_the_endpoint_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
                )

        threading.Thread(target=answer, daemon=True).start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StorageError, match=f"{endpoint} did not answer as an S3 server does"):
            open_storage("s3://bucket/prefix").read("data")


def test_a_deletion_that_is_cut_short_has_taken_the_manifests_first(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minio import Minio

    s3.use(monkeypatch)
    storage = open_storage(s3.new_bucket())
    for name in ("a/1", f"a/{MANIFEST_NAME}", f"b/{MANIFEST_NAME}", "b/2"):
        storage.write(name, b"")

    def lose_connection(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Minio, "remove_objects", lose_connection)
    with pytest.raises(KeyboardInterrupt):
        storage.delete()
    assert [found.name for found in storage.list()] == ["a/1", "b/2"]
