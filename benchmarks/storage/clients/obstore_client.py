"""obstore (Rust's object_store): `put` of a path and `get` as a stream, as its documentation has it.

With `ranges`, downloads are eight ranges of 32 MiB at a time, each written to its place.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from obstore.store import S3Store
from timing import ENDPOINT, KEY, MODE, REGION, SECRET, report

_RANGE_BYTES = 32 * 1024 * 1024


def _store(bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=ENDPOINT,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _upload(bucket: str, name: str, path: str) -> None:
    obstore.put(_store(bucket), name, Path(path))


def _download(bucket: str, name: str, path: str) -> None:
    store = _store(bucket)
    with Path(path).open("wb") as file:
        if MODE == "ranges":
            size = obstore.head(store, name)["size"]

            def fetch(start: int) -> None:
                end = min(start + _RANGE_BYTES, size)
                os.pwrite(file.fileno(), obstore.get_range(store, name, start=start, end=end), start)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(fetch, range(0, size, _RANGE_BYTES)))
        else:
            for piece in obstore.get(store, name).stream():
                file.write(piece)


report(_upload, _download)
