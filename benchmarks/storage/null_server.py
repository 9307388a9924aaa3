"""An S3 server that keeps nothing, so that the client is what is measured: `python -m benchmarks.storage.null_server`.

It takes what these clients ask for and no more: objects in one request or in parts, heads, and ranges. No signature
and no checksum is looked at. What is stored is dropped in the kernel, unseen; what is read comes from one file, from
its first byte, whatever the object's name: a download is right where that file is what was uploaded. So it says how
fast a client could be, not how fast a server is.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import socket
import threading
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK_BYTES = 4 * 1024 * 1024
_HEAD_BYTES = 65536
_ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class _Request(NamedTuple):
    """The head of a request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


class NullServer:
    """Keeps the sizes of objects, and answers with the bytes of one file.

    Args:
        source: The file.
    """

    def __init__(self, source: str) -> None:
        self._file = os.open(source, os.O_RDONLY)
        self._sizes: dict[str, int] = {}
        self._parts: dict[str, dict[int, int]] = {}
        self._uploads = itertools.count()

    def serve(self, listening: socket.socket) -> None:
        """Answers connections for ever, each in a thread."""
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._answer_all, args=(connection,), daemon=True).start()

    def _answer_all(self, connection: socket.socket) -> None:
        sink, pending = bytearray(_CHUNK_BYTES), b""
        with connection:
            while True:
                while (end := pending.find(b"\r\n\r\n")) < 0:
                    try:
                        piece = connection.recv(_HEAD_BYTES)
                    except OSError:
                        return
                    if not piece:
                        return
                    pending += piece
                request, pending = _parse(pending[:end].decode("latin-1")), pending[end + 4 :]
                if request.headers.get("expect", "").lower() == "100-continue":
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                left = int(request.headers.get("content-length", 0)) - len(pending)
                pending = pending[left:] if left < 0 else b""
                try:
                    while left > 0:
                        # What is truncated is dropped by the kernel without being copied.
                        count = connection.recv_into(sink, min(left, _CHUNK_BYTES), socket.MSG_TRUNC)
                        if not count:
                            return
                        left -= count
                    self._answer(connection, request)
                except OSError:
                    return

    def _answer(self, connection: socket.socket, request: _Request) -> None:
        method, query = request.method, request.query
        if method == "PUT" and "uploadId" in query:
            self._parts[query["uploadId"][0]][int(query["partNumber"][0])] = _body_bytes(request)
            _reply(connection, 200)
        elif method == "PUT":
            self._sizes[request.path] = _body_bytes(request)
            _reply(connection, 200)
        elif method == "POST" and "uploads" in query:
            upload = f"upload-{next(self._uploads)}"
            self._parts[upload] = {}
            body = f"<InitiateMultipartUploadResult {_XMLNS}><UploadId>{upload}</UploadId>"
            _reply(connection, 200, f"{body}</InitiateMultipartUploadResult>")
        elif method == "POST" and "uploadId" in query:
            self._sizes[request.path] = sum(self._parts.pop(query["uploadId"][0]).values())
            body = f"<CompleteMultipartUploadResult {_XMLNS}><Bucket>b</Bucket><Key>k</Key><ETag>{_ETAG}</ETag>"
            _reply(connection, 200, f"{body}</CompleteMultipartUploadResult>")
        elif method == "DELETE":
            self._sizes.pop(request.path, None)
            _reply(connection, 204)
        elif request.path.count("/") < 2:
            _reply(connection, 200, f"<LocationConstraint {_XMLNS}></LocationConstraint>")
        elif request.path not in self._sizes:
            _reply(connection, 404, "<Error><Code>NoSuchKey</Code></Error>", empty=method == "HEAD")
        else:
            self._send(connection, request)

    def _send(self, connection: socket.socket, request: _Request) -> None:
        size = self._sizes[request.path]
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        start = int(found[1]) if found else 0
        end = min(int(found[2]) + 1 if found and found[2] else size, size)
        extra = f"Content-Range: bytes {start}-{end - 1}/{size}\r\n" if found else ""
        connection.sendall(_head(206 if found else 200, end - start, extra))
        while request.method == "GET" and start < end:
            start += os.sendfile(connection.fileno(), self._file, start, end - start)


def _parse(text: str) -> _Request:
    first, *lines = text.split("\r\n")
    method, target, _ = first.split(" ")
    url = urlsplit(target)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _Request(method, unquote(url.path).rstrip("/"), parse_qs(url.query, keep_blank_values=True), headers)


def _body_bytes(request: _Request) -> int:
    """Returns the size of what is stored; some clients frame it in chunks with their checksums."""
    return int(request.headers.get("x-amz-decoded-content-length") or request.headers["content-length"])


def _head(status: int, length: int, extra: str = "", kind: str = "application/octet-stream") -> bytes:
    reason = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found"}[status]
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nContent-Type: {kind}\r\nETag: {_ETAG}\r\n"
        f"Last-Modified: {_DATE}\r\nAccept-Ranges: bytes\r\n{extra}\r\n"
    ).encode()


def _reply(connection: socket.socket, status: int, body: str = "", *, empty: bool = False) -> None:
    data = b"" if empty else body.encode()
    connection.sendall(_head(status, len(data), kind="application/xml" if body else "text/plain") + data)


def main() -> None:
    """Serves on the port that is given until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage.null_server", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("source", help="file whose bytes every object has")
    options = parser.parse_args()
    NullServer(options.source).serve(socket.create_server(("127.0.0.1", options.port), backlog=128))


if __name__ == "__main__":
    main()
