"""Kinds of values that several sections have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Below 2**53, because Kubeflow carries numbers inside a section as floats."""
Fraction = Annotated[float, Field(ge=0, le=1)]
