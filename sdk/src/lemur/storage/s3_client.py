"""How to reach an S3 server: endpoint and credentials as the machine gives them, and a client that gives up soon."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio

from lemur.errors import StorageError

SECRET_FOLDER_VARIABLE = "LEMUR_S3_SECRET_DIR"
"""Names the folder of a mounted secret."""

_MAX_CONNECTIONS = 16

# A server that is not there is known after three attempts of three seconds and the pauses between them.
_TIMEOUT = urllib3.Timeout(connect=3, read=30)
_RETRIES = urllib3.Retry(
    connect=2,
    read=1,
    status=4,
    other=1,
    backoff_factor=0.5,
    status_forcelist=(500, 502, 503, 504),
    raise_on_status=False,
)


@dataclass(frozen=True)
class S3Settings:
    """How to reach an S3 server, as the environment or a mounted secret says."""

    endpoint: str
    """URL of the server."""
    region: str | None
    """Region; `None` asks the server, which AWS can answer."""
    access_key: str
    """Who asks."""
    secret_key: str = field(repr=False)
    """Signs the requests."""
    session_token: str | None = field(repr=False)
    """Comes with temporary keys."""
    source: str
    """Where the keys were found, for messages; never the keys themselves."""

    @classmethod
    def find(cls) -> S3Settings:
        """Reads the settings: keys from the environment, else from the folder that LEMUR_S3_SECRET_DIR names.

        The folder is a mounted Kubernetes secret: one file for each variable, named like it. Endpoint and region
        are taken from wherever they stand, the environment first.

        Raises:
            StorageError: No keys, or an endpoint that cannot be one; the message says what was tried.
        """
        folder = os.environ.get(SECRET_FOLDER_VARIABLE)
        mounted = _mounted_secret(Path(folder)) if folder else {}
        keys: dict[str, str] = {**os.environ} if os.environ.get("AWS_ACCESS_KEY_ID") else mounted
        if not keys.get("AWS_ACCESS_KEY_ID") or not keys.get("AWS_SECRET_ACCESS_KEY"):
            tried = f"the folder {folder} ({SECRET_FOLDER_VARIABLE})" if folder else f"{SECRET_FOLDER_VARIABLE} (unset)"
            raise StorageError(
                "no S3 credentials: looked for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment and "
                f"for files of these names in {tried}; set the two variables or mount the secret there"
            )
        found = {**mounted, **os.environ}
        endpoint = found.get("AWS_ENDPOINT_URL") or found.get("S3_ENDPOINT") or "https://s3.amazonaws.com"
        if "://" not in endpoint:
            endpoint = f"{'http' if found.get('S3_USE_HTTPS') == '0' else 'https'}://{endpoint}"
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.netloc or address.path not in ("", "/"):
            raise StorageError(
                f"{endpoint!r} cannot be an S3 endpoint: write AWS_ENDPOINT_URL as http://host:port or "
                "https://host, with no path"
            )
        own_server = not endpoint.endswith(".amazonaws.com")
        return cls(
            endpoint=endpoint.rstrip("/"),
            region=found.get("AWS_REGION") or ("us-east-1" if own_server else None),
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            session_token=keys.get("AWS_SESSION_TOKEN"),
            source=f"the folder {folder}" if keys is mounted else "the environment",
        )


@functools.cache
def s3_client(settings: S3Settings, process: int) -> Minio:
    """Returns the client of a process: connections must not be shared with a forked one."""
    address = urlsplit(settings.endpoint)
    return Minio(
        address.netloc,
        settings.access_key,
        settings.secret_key,
        settings.session_token,
        secure=address.scheme == "https",
        region=settings.region,
        http_client=s3_connections(process),
    )


@functools.cache
def s3_connections(process: int) -> urllib3.PoolManager:
    """Returns what all requests of a process go through."""
    # Each retry would be a line of its own on the user's terminal; the error in the end says it all.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    certificates = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
    return urllib3.PoolManager(
        timeout=_TIMEOUT,
        retries=_RETRIES,
        maxsize=_MAX_CONNECTIONS,
        cert_reqs="CERT_REQUIRED",
        ca_certs=certificates,
    )


def _mounted_secret(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {path.name: path.read_text(encoding="utf-8").strip() for path in folder.iterdir() if path.is_file()}
