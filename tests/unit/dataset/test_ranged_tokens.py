"""The token dataset as training reads it from object storage."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import re
import socket
import threading
import time
import zlib
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stored_mixture import numbered, store_mixture

from lemur.dataset import BLOCK_BYTES, TokenDataset, open_dataset
from lemur.errors import IntegrityError, StorageError
from lemur.receipt import Receipt
from lemur.storage import open_storage

if TYPE_CHECKING:
    from conftest import S3Server

LENGTH = 1000


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    s3.use(monkeypatch)
    return s3.new_bucket()


def medium(storage: str) -> Receipt:
    """Three partitions, each of some nine hundred kilobytes: seven blocks."""
    chosen = random.Random(0)
    lengths = [[chosen.randrange(2, 4000) for _ in range(110)] for _ in range(3)]
    first, second, third = (numbered(part, first=10**6 * number + 1) for number, part in enumerate(lengths))
    sources = {"code": [first, second], "text": [third]}
    return store_mixture(storage, sources, sequence_length=LENGTH, vocab_size=2**24)


def fingerprint(dataset: TokenDataset, places: range) -> int:
    """Returns a checksum over samples, read one by one."""
    return zlib.crc32(b"".join(dataset.sample(place).input_ids.tobytes() for place in places))


def fingerprint_of_batches(dataset: TokenDataset, places: range) -> int:
    """Returns the same checksum over samples that are read in batches, each announced before it is read."""
    content = b""
    for start in range(0, len(places), 16):
        dataset.prefetch(places[start + 16 : start + 32])
        content += b"".join(sample.input_ids.tobytes() for sample in dataset.samples(places[start : start + 16]))
    return zlib.crc32(content)


def block_files(work: Path) -> list[Path]:
    return list((work / "blocks").rglob("*-*"))


def test_what_is_read_from_a_bucket_is_what_is_read_from_files(bucket: str, tmp_path: Path) -> None:
    mapped = open_dataset(medium((tmp_path / "storage").as_uri()), tmp_path / "mapped")
    receipt = medium(bucket)
    places = range(len(mapped))

    ranged = open_dataset(receipt, tmp_path / "ranged")

    assert fingerprint(ranged, places) == fingerprint(mapped, places)
    again = open_dataset(receipt, tmp_path / "ranged")
    assert fingerprint_of_batches(again, places) == fingerprint(mapped, places)
    assert fingerprint_of_batches(open_dataset(receipt, tmp_path / "other"), places) == fingerprint(mapped, places)


def test_a_cache_that_holds_hardly_anything_still_gives_right_data(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    whole = open_dataset(receipt, tmp_path / "whole")
    places = range(80)

    small = open_dataset(receipt, tmp_path / "small", cache_bytes=3 * BLOCK_BYTES)

    assert fingerprint_of_batches(small, places) == fingerprint(whole, places)
    assert fingerprint(small, places[:20]) == fingerprint(whole, places[:20])
    assert sum(path.stat().st_size for path in block_files(tmp_path / "small")) <= 3 * BLOCK_BYTES
    assert len(block_files(tmp_path / "whole")) > 10


def test_a_block_is_fetched_once_and_read_from_the_cache_afterwards(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    first = open_dataset(receipt, tmp_path)
    places = range(len(first))
    expected = fingerprint_of_batches(first, places)
    for stored in open_storage(bucket).list("documents"):
        if stored.name.endswith("tokens.bin"):
            open_storage(bucket).delete(stored.name)

    assert fingerprint(first, places) == expected
    # Another process verifies what it finds.
    assert fingerprint_of_batches(pickle.loads(pickle.dumps(first)), places) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_cache(bucket: str, tmp_path: Path, method: str) -> None:
    dataset = open_dataset(medium(bucket), tmp_path / "shared", cache_bytes=8 * BLOCK_BYTES)
    places = range(60)
    expected = fingerprint(dataset, places)

    with get_context(method).Pool(2) as pool:
        found = pool.starmap(fingerprint_of_batches, [(dataset, places)] * 2, chunksize=1)

    assert found == [expected, expected]
    assert sum(path.stat().st_size for path in block_files(tmp_path / "shared")) <= 8 * BLOCK_BYTES


def test_a_process_forked_while_another_fetches_has_threads_of_its_own(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    places = range(40)
    expected = fingerprint(open_dataset(receipt, tmp_path / "expected"), places)
    dataset = open_dataset(receipt, tmp_path / "work")
    dataset.prefetch(range(40, 80))
    dataset.sample(0)

    context = get_context("fork")
    receiving, sending = context.Pipe()
    # A closure, so that the dataset is inherited as it is.
    child = context.Process(target=lambda: sending.send(fingerprint_of_batches(dataset, places)))
    child.start()

    try:
        assert receiving.poll(30)
        assert receiving.recv() == expected
    finally:
        child.kill()
        child.join()


def test_prefetched_sequences_need_the_storage_no_more(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    places = range(10)
    expected = fingerprint(open_dataset(receipt, tmp_path / "expected"), places)
    dataset = open_dataset(receipt, tmp_path / "work")

    dataset.prefetch(places)

    deadline = time.monotonic() + 20
    while dataset._tokens._here().pending and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)
    open_storage(bucket).delete("documents")
    assert fingerprint(dataset, places) == expected


def test_a_block_that_was_altered_is_refused_and_the_result_marked(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    dataset = open_dataset(receipt, tmp_path)
    piece = dataset.pieces_of(0)[0]
    storage, position = open_storage(f"{bucket}/{piece.documents}"), 4 * piece.start
    content = bytearray(storage.read("tokens.bin"))
    content[position] ^= 1
    storage.write("tokens.bin", bytes(content))
    first = position // BLOCK_BYTES * BLOCK_BYTES
    end = min(first + BLOCK_BYTES, len(content))

    with pytest.raises(IntegrityError, match=re.escape(f"tokens.bin was altered: its bytes {first:,} to {end:,} ")):
        dataset.sample(0)
    assert json.loads(storage.read("damaged.json")) == ["tokens.bin"]
    # Nothing of it is kept, and once the object is mended it is read.
    content[position] ^= 1
    storage.write("tokens.bin", bytes(content))
    assert fingerprint(dataset, range(20)) == fingerprint(open_dataset(receipt, tmp_path / "other"), range(20))


class AlteringProxy:
    """Passes connections on to a server, and alters the end of the first long answer."""

    def __init__(self, endpoint: str) -> None:
        self._target = int(endpoint.rpartition(":")[2])
        self.has_altered = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                passed += len(data)
                if answers and passed > BLOCK_BYTES // 2 and not self.has_altered:
                    self.has_altered = True
                    data[-1] ^= 1
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def test_a_block_that_was_altered_on_its_way_is_read_again(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = medium(bucket)
    expected = fingerprint(open_dataset(receipt, tmp_path / "expected"), range(5))
    dataset = open_dataset(receipt, tmp_path / "work")
    proxy = AlteringProxy(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

    assert fingerprint(pickle.loads(pickle.dumps(dataset)), range(5)) == expected
    assert proxy.has_altered
    assert not any("damaged" in stored.name for stored in open_storage(bucket).list())


def test_a_block_that_was_altered_in_the_cache_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    receipt = medium(bucket)
    expected = fingerprint(open_dataset(receipt, tmp_path), range(40))
    for number, path in enumerate(block_files(tmp_path)):
        content = path.read_bytes()
        path.write_bytes(content[::-1] if number % 2 else content[:-1])

    assert fingerprint(open_dataset(receipt, tmp_path), range(40)) == expected


@pytest.mark.parametrize(
    ("name", "message"), [("tokens.bin", "is missing"), ("blocks.npy", "is missing"), ("manifest.json", "has no manif")]
)
def test_an_object_that_is_gone_is_named(bucket: str, tmp_path: Path, name: str, message: str) -> None:
    dataset = open_dataset(medium(bucket), tmp_path)
    documents = dataset.pieces_of(0)[0].documents
    open_storage(bucket).delete(f"{documents}/{name}")

    with pytest.raises(IntegrityError, match=rf"{documents}.*{message}"):
        dataset.sample(0)


def test_tokens_that_end_too_soon_and_checksums_that_were_altered_are_refused(bucket: str, tmp_path: Path) -> None:
    dataset = open_dataset(medium(bucket), tmp_path)
    storage = open_storage(bucket)
    documents = dataset.pieces_of(0)[0].documents
    storage.write(f"{documents}/tokens.bin", b"12345678")
    with pytest.raises(IntegrityError, match=r"tokens\.bin was truncated: bytes "):
        dataset.sample(0)

    checksums = bytearray(storage.read(f"{documents}/blocks.npy"))
    checksums[-1] ^= 1
    storage.write(f"{documents}/blocks.npy", bytes(checksums))
    with pytest.raises(IntegrityError, match=r"blocks\.npy was altered"):
        pickle.loads(pickle.dumps(dataset)).sample(0)


def test_a_server_that_is_gone_is_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(medium(bucket), tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    copy = pickle.loads(pickle.dumps(dataset))

    with pytest.raises(StorageError, match=re.escape("127.0.0.1:9")):
        copy.samples(range(4))
