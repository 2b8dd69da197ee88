"""What states and solutions need so that exported functions which take or return them can be serialized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import jax
from jax import export

_Dataclass = TypeVar("_Dataclass", bound=type)


def exportable_dataclass(cls: _Dataclass, static: Sequence[str] = ()) -> _Dataclass:
    """Register a dataclass of arrays with JAX, and with ``jax.export``; ``static`` fields hold tuples of strings."""
    data = [field.name for field in fields(cls) if field.name not in static]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))
    return _with_serialization(cls)


def exportable_namedtuple(cls: _Dataclass) -> _Dataclass:
    """Register a named tuple of arrays with ``jax.export``."""
    export.register_namedtuple_serialization(cls, serialized_name=_name(cls))
    return cls


def _with_serialization(cls: Any) -> Any:
    def serialized(static: tuple[tuple[str, ...], ...]) -> bytes:
        return json.dumps(static).encode()

    def deserialized(static: bytes | bytearray) -> tuple[tuple[str, ...], ...]:
        return tuple(map(tuple, json.loads(bytes(static))))

    return export.register_pytree_node_serialization(
        cls, serialized_name=_name(cls), serialize_auxdata=serialized, deserialize_auxdata=deserialized
    )


def _name(cls: type) -> str:
    return f"pjax_core.{cls.__name__}"
