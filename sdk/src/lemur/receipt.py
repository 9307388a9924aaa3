"""Receipts and manifests: how stages hand over results without copying them.

What a stage makes (tokens, a checkpoint, scores) is written once, straight to object storage, below
a prefix that is addressed by everything the result depends on. Last of all comes `manifest.json`, with the
size and SHA-256 of each object: a result is complete when its manifest exists, and readers refuse anything
without one. What travels through the pipeline is the `Receipt`, a few hundred bytes taken from the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "partitions", "documents", "tokens", "dialogues", "checkpoint", "scores", "verdict", "release", "endpoint"
]
"""What a receipt stands for."""

MANIFEST_NAME = "manifest.json"


def canonical_json(value: Any) -> str:
    """Returns the one JSON text of a value: sorted keys, no spaces, so that equal values digest alike."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class StoredObject(BaseModel):
    """One object below a manifest's prefix."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Path below the prefix, with forward slashes."""
    size_bytes: int
    """Size of the object."""
    sha256: str
    """Hex digest of the object's bytes."""


class Parent(BaseModel):
    """A result that another one was made from."""

    model_config = ConfigDict(frozen=True)

    uri: str
    """Prefix of the parent; its own manifest stands there, so that lineage can be walked."""
    digest: str
    """Content digest of the parent at the time."""


class Receipt(BaseModel):
    """Stands for a stored result: where it is, what it is, what it was made from."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    """What the result is."""
    stage: str
    """Stage that made it, for example `pretrain`."""
    key: str
    """SHA-256 over all the result depends on: stage, its recipe section and its parents' digests."""
    uri: str
    """Storage prefix of the result, `file://…` or `s3://…`."""
    digest: str
    """SHA-256 over names, sizes and digests of the objects: the identity of the content."""
    num_objects: int
    """How many objects the result has, its manifest not counted."""
    size_bytes: int
    """Bytes of all objects, the manifest not counted."""
    parents: dict[str, Parent] = Field(default_factory=dict)
    """Results this one was made from, by their role: `tokens`, `base`, …."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Figures for tables and graphs; each name ends in its unit where it has one."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else a reader needs, as JSON: the section, counts by source, versions."""

    def save(self, path: str | Path) -> None:
        """Writes the receipt as the artifact file that the pipeline hands on."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Reads a receipt that `save` wrote."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def as_parent(self) -> Parent:
        """Returns the reference that results made from this one keep."""
        return Parent(uri=self.uri, digest=self.digest)


class Manifest(BaseModel):
    """The last object of a result: its objects and all that its receipt says."""

    model_config = ConfigDict(frozen=True)

    format: Literal["lemur/manifest/v1"] = "lemur/manifest/v1"
    """Version of this file's layout."""
    kind: Kind
    stage: str
    key: str
    objects: list[StoredObject]
    """Every object, sorted by name."""
    parents: dict[str, Parent] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the objects alone: equal content has equal digests, whenever and wherever made."""
        return digest_of([stored.model_dump() for stored in self.objects])

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the objects that hold weights alone: equal training gives equal weights.

        `digest` covers all of a model's objects, also `metrics.jsonl` and `events/`, which say when and how fast.
        """
        weights = [stored for stored in self.objects if stored.name.endswith(".safetensors")]
        return digest_of([stored.model_dump() for stored in weights])

    def receipt(self, uri: str) -> Receipt:
        """Returns the receipt of this manifest, found at the prefix `uri`."""
        return Receipt(
            **self.model_dump(exclude={"format", "objects"}),
            uri=uri,
            digest=self.digest,
            num_objects=len(self.objects),
            size_bytes=sum(stored.size_bytes for stored in self.objects),
        )


def result_key(stage: str, section: Mapping[str, Any], parents: Mapping[str, Receipt], **more: Any) -> str:
    """Returns the key that a stage's result is stored under.

    Args:
        stage: Name of the stage and, where one stage makes several results, of the result.
        section: Everything of the recipe that the result depends on, as JSON.
        parents: Receipts the result is made from; only their content digests count, so that a parent made
            anew with the same content changes nothing.
        **more: Other things it depends on, as JSON: digests of input files, versions.
    """
    digests = {role: receipt.digest for role, receipt in parents.items()}
    return digest_of({"stage": stage, "section": dict(section), "parents": digests, **more})
