"""Types of fields that several dialects share, as the OpenAPI document describes them; who reads a field checks it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Email: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "email", "maxLength": 254})]
Uuid: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=100)]
