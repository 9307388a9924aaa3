"""The requests that store one object, whole or in parts, signed here so that its bytes are not hashed twice.

The `minio` client takes SHA-256 of every request's body on plain HTTP, and MD5 on HTTPS. Storage takes the SHA-256 of
the whole object anyway. An object that goes out in one request is signed with just that digest. A part is signed
without its bytes and carries its CRC-32 instead, a fifth of the work. Either way a server that knows S3's checksums
refuses what was damaged on the way. What this leaves open, a part altered on purpose on a plain HTTP connection,
shows when the object is read, by its digest in the manifest, which itself goes out in one request.
"""

from __future__ import annotations

import base64
import hashlib
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow

from lemur.storage.s3_client import S3Settings

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_NOTHING: Mapping[str, str] = MappingProxyType({})
_EMPTY = memoryview(b"")
_EMPTY_SHA256 = hashlib.sha256(_EMPTY).hexdigest()

_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
_PASSING_CODES = ("BadDigest", "IncompleteBody", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown")

# Only finding the server is left to urllib3; what happens later is looked at here.
_RETRIES = urllib3.Retry(
    connect=2, read=False, redirect=False, status=0, backoff_factor=0.5, respect_retry_after_header=False
)


class Part(NamedTuple):
    """A part that the server has."""

    number: int
    """Counted from 1."""
    etag: str
    """What the server calls it."""
    crc32: str
    """CRC-32 of its bytes, in base64."""


class S3Object:
    """One object that is being stored.

    Args:
        settings: Credentials.
        client: Knows the bucket's region and address.
        connections: Where requests go through.
        bucket: Name of the bucket.
        key: Full name in it.
    """

    def __init__(
        self, settings: S3Settings, client: Minio, connections: urllib3.PoolManager, bucket: str, key: str
    ) -> None:
        address = urlsplit(client.get_presigned_url("PUT", bucket, key))
        self._address = address._replace(query="")
        self._region = parse_qs(address.query)["X-Amz-Credential"][0].split("/")[-3]
        self._credentials = Credentials(settings.access_key, settings.secret_key, settings.session_token)
        self._connections = connections

    def put(self, data: memoryview, sha256: str) -> None:
        """Stores the object in one request.

        Args:
            data: All of its bytes.
            sha256: Their digest in hexadecimal, which the request is signed with and the server checks.
        """
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        headers = {"Content-Type": "application/octet-stream", "x-amz-checksum-sha256": checksum}
        self._send("PUT", headers=headers, body=data, sha256=sha256)

    def begin(self) -> str:
        """Begins an upload in parts and returns its name."""
        headers = {"Content-Type": "application/octet-stream", "x-amz-checksum-algorithm": "CRC32"}
        answer = self._send("POST", {"uploads": ""}, headers)
        name = ElementTree.fromstring(answer.data).findtext(f"{{{_NAMESPACE}}}UploadId")
        if not name:
            raise InvalidResponseError(answer.status, answer.headers.get("content-type"), answer.data.decode())
        return name

    def put_part(self, upload: str, number: int, data: memoryview) -> Part:
        """Stores a part, counted from 1."""
        crc32 = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        query = {"partNumber": str(number), "uploadId": upload}
        answer = self._send("PUT", query, {"x-amz-checksum-crc32": crc32}, body=data, sha256=_UNSIGNED)
        return Part(number, answer.headers["etag"].strip('"'), crc32)

    def finish(self, upload: str, parts: list[Part]) -> None:
        """Makes the parts one object, which appears now."""
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{part.etag}&quot;</ETag>"
            f"<ChecksumCRC32>{part.crc32}</ChecksumCRC32></Part>"
            for part in parts
        )
        body = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{listed}</CompleteMultipartUpload>'.encode()
        digest = hashlib.sha256(body).hexdigest()
        try:
            self._send("POST", {"uploadId": upload}, {"Content-Type": "application/xml"}, memoryview(body), digest)
        except S3Error as error:
            # Asked a second time, since the first answer was lost, the server has no such upload any more.
            if error.code != "NoSuchUpload" or not self._stands(parts):
                raise

    def abandon(self, upload: str) -> None:
        """Deletes the parts of an upload; where that fails too, what failed before is what counts."""
        with suppress(urllib3.exceptions.HTTPError, MinioException):
            self._send_once("DELETE", {"uploadId": upload}, _NOTHING, _EMPTY, _EMPTY_SHA256)

    def _stands(self, parts: list[Part]) -> bool:
        """Tells whether the object is what these parts make: MD5 over those of the parts, and their number."""
        try:
            digests = b"".join(bytes.fromhex(part.etag) for part in parts)
            found = self._send("HEAD").headers.get("etag", "").strip('"')
        except (ValueError, MinioException):
            return False
        return found == f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"

    def _send(
        self,
        method: str,
        query: Mapping[str, str] = _NOTHING,
        headers: Mapping[str, str] = _NOTHING,
        body: memoryview = _EMPTY,
        sha256: str = _EMPTY_SHA256,
    ) -> urllib3.BaseHTTPResponse:
        """Sends a request, and again where the connection breaks or the server asks for it."""
        for pause in _PAUSES_SECONDS:
            try:
                return self._send_once(method, query, headers, body, sha256)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
                time.sleep(pause)
            except S3Error as error:
                if error.code not in _PASSING_CODES:
                    raise
                time.sleep(pause)
        return self._send_once(method, query, headers, body, sha256)

    def _send_once(
        self, method: str, query: Mapping[str, str], headers: Mapping[str, str], body: memoryview, sha256: str
    ) -> urllib3.BaseHTTPResponse:
        date = utcnow()
        url = self._address._replace(query=urlencode(query, quote_via=quote, safe="-_.~"))
        token = self._credentials.session_token
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=self._region,
            headers={
                **headers,
                **({"X-Amz-Security-Token": token} if token else {}),
                "Host": url.netloc,
                "x-amz-date": to_amz_date(date),
                "x-amz-content-sha256": sha256,
            },
            credentials=self._credentials,
            content_sha256=sha256,
            date=date,
        )
        answer = self._connections.urlopen(
            method,
            urlunsplit(url),
            body=body,
            headers={**signed, "Content-Length": str(len(body))},
            retries=_RETRIES,
        )
        _check(answer)
        return answer


def _check(answer: urllib3.BaseHTTPResponse) -> None:
    """Raises the error that an answer is; a server may begin with status 200 before it knows that it will fail."""
    if answer.status in (200, 204) and b"<Error>" not in answer.data[:200]:
        return
    try:
        error = S3Error.fromxml(answer)
    except (ElementTree.ParseError, UnicodeDecodeError) as reason:
        content_type = answer.headers.get("content-type")
        text = answer.data[:1000].decode(errors="replace")
        raise InvalidResponseError(answer.status, content_type, text) from reason
    raise error
