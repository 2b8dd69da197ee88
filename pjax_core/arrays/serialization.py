"""What states and solutions need so that exported functions which take or return them can be serialized."""

from __future__ import annotations

import json
from typing import TypeVar

import jax
from jax import export

_Dataclass = TypeVar("_Dataclass", bound=type)


def exportable_dataclass(cls: _Dataclass) -> _Dataclass:
    """Register a dataclass of arrays with JAX, and with ``jax.export``; its static fields hold tuples of strings."""

    def serialized(static: tuple[tuple[str, ...], ...]) -> bytes:
        return json.dumps(static).encode()

    def deserialized(static: bytes | bytearray) -> tuple[tuple[str, ...], ...]:
        return tuple(map(tuple, json.loads(bytes(static))))

    jax.tree_util.register_dataclass(cls)
    export.register_pytree_node_serialization(
        cls, serialized_name=_name(cls), serialize_auxdata=serialized, deserialize_auxdata=deserialized
    )
    return cls


def exportable_namedtuple(cls: type) -> None:
    """Register a named tuple of arrays with ``jax.export``."""
    export.register_namedtuple_serialization(cls, serialized_name=_name(cls))


def _name(cls: type) -> str:
    return f"pjax_core.{cls.__name__}"
