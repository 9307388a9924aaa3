"""Receipts and manifests: equal content has equal digests, and what is saved is what is loaded."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lemur.receipt import Manifest, Parent, Receipt, StoredObject, canonical_json, digest_of, result_key

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


def _manifest(**changes: Any) -> Manifest:
    objects = [
        StoredObject(name="a", size_bytes=3, sha256="0" * 64),
        StoredObject(name="b", size_bytes=4, sha256="1" * 64),
    ]
    values = {"kind": "tokens", "stage": "mix", "key": "k", "objects": objects, "metrics": {"tokens": 7.0}, **changes}
    return Manifest(**values)


def _receipt(digest: str = "d", **changes: Any) -> Receipt:
    values = {
        "kind": "tokens",
        "stage": "mix",
        "key": "k",
        "uri": "file:///a",
        "num_objects": 1,
        "size_bytes": 2,
        **changes,
    }
    return Receipt(digest=digest, **values)


@given(_JSON)
def test_canonical_text_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_the_order_of_keys_does_not_change_a_digest(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest_of(turned) == digest_of(value)


def test_a_digest_is_the_sha256_of_the_canonical_text() -> None:
    assert digest_of({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()


def test_a_value_that_json_cannot_hold_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of({"loss": float("nan")})


def test_a_manifest_s_digest_is_of_its_objects_alone() -> None:
    manifest = _manifest()
    again = _manifest(stage="other", key="other", metrics={}, metadata={"when": 1})
    assert again.digest == manifest.digest
    for change in ({"name": "c"}, {"size_bytes": 5}, {"sha256": "2" * 64}):
        changed = [manifest.objects[0], manifest.objects[1].model_copy(update=change)]
        assert _manifest(objects=changed).digest != manifest.digest
    assert _manifest(objects=manifest.objects[:1]).digest != manifest.digest


def test_a_receipt_says_what_its_manifest_says() -> None:
    manifest = _manifest(parents={"base": Parent(uri="s3://b/c", digest="e")}, metadata={"seed": 1})
    receipt = Manifest.model_validate_json(manifest.model_dump_json()).receipt("s3://bucket/tokens/k")
    assert receipt == Receipt(
        kind="tokens",
        stage="mix",
        key="k",
        uri="s3://bucket/tokens/k",
        digest=manifest.digest,
        num_objects=2,
        size_bytes=7,
        parents={"base": Parent(uri="s3://b/c", digest="e")},
        metrics={"tokens": 7.0},
        metadata={"seed": 1},
    )
    assert receipt.as_parent() == Parent(uri="s3://bucket/tokens/k", digest=manifest.digest)


def test_a_manifest_of_another_version_is_refused() -> None:
    text = _manifest().model_dump_json().replace("manifest/v1", "manifest/v2")
    with pytest.raises(ValidationError, match="lemur/manifest/v1"):
        Manifest.model_validate_json(text)


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=3), st.text())
def test_a_saved_receipt_is_loaded_as_it_was(tmp_path_factory: pytest.TempPathFactory, metadata: Any, uri: str) -> None:
    path = tmp_path_factory.mktemp("receipt") / "new" / "receipt.json"
    receipt = _receipt(uri=uri, metadata=metadata)
    receipt.save(path)
    assert Receipt.load(path) == receipt


def test_a_receipt_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _receipt().uri = "elsewhere"  # type: ignore[misc]


def test_a_key_changes_with_all_that_a_result_depends_on_and_with_nothing_else() -> None:
    section = {"steps": 10}
    parents = {"tokens": _receipt("d1")}
    key = result_key("pretrain", section, parents, code="v1")
    moved = {"tokens": _receipt("d1", uri="s3://elsewhere", metrics={"tokens_per_second": 3.0})}
    assert result_key("pretrain", {"steps": 10}, moved, code="v1") == key
    others = {
        result_key("finetune", section, parents, code="v1"),
        result_key("pretrain", {"steps": 11}, parents, code="v1"),
        result_key("pretrain", section, {"tokens": _receipt("d2")}, code="v1"),
        result_key("pretrain", section, {"base": _receipt("d1")}, code="v1"),
        result_key("pretrain", section, parents, code="v2"),
        result_key("pretrain", section, parents),
    }
    assert len(others - {key}) == 6


def test_a_key_is_the_same_whether_a_number_came_as_an_integer_or_not_only_if_the_section_says_so() -> None:
    # Kubeflow hands integers on as floats, so sections are validated anew before a key is made.
    assert result_key("mix", {"seed": 4}, {}) != result_key("mix", {"seed": 4.0}, {})
