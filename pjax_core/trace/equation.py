"""An equation of a jaxpr, and errors that name the line of the user's that it is from."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.extend.core
import numpy as np

from pjax_core.arrays.meshes import Shape, says_more_than_shape, varying, varying_axes
from pjax_core.graph.graph import Loop
from pjax_core.trace import names

_OF_JAX, _OF_NUMPY = (str(Path(str(module.__file__)).parent) + "/" for module in (jax, np))
_TREES = ("/jax/_src/tree.py", "/jax/_src/tree_util.py")
_NOT_THE_USERS = (_OF_JAX, _OF_NUMPY, str(Path(__file__).parents[1]) + "/")


@dataclass(frozen=True)
class Equation:
    """An equation of a jaxpr: what it computes, its settings, the shapes of its outputs, and that of JAX.

    ``caller`` is the one by which the function comes to it: inside calls, JAX keeps the line of their first caller.
    ``loops`` takes those that are found on the way.
    """

    name: str
    params: dict[str, Any]
    shapes: tuple[Shape, ...]
    of: jax.extend.core.JaxprEqn
    caller: jax.extend.core.JaxprEqn
    loops: list[Loop] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        """Of its only output."""
        return self.shapes[0]

    @property
    def words(self) -> str:
        """What users call it."""
        return names.WORDS.get(self.name, self.name)

    @property
    def inner(self) -> Any:
        """Of a call, the jaxpr that it calls."""
        return next((self.params[name] for name in names.JAXPR_PARAMETERS if name in self.params), None)

    @property
    def calls_jax(self) -> bool:
        """Whether it is a call of one of JAX's own functions."""
        info = getattr(getattr(self.inner, "jaxpr", self.inner), "debug_info", None)
        return str(getattr(info, "func_filename", None)).startswith(_OF_JAX)

    @property
    def has_own_derivative(self) -> bool:
        """Whether it is a call of a function of the user's with ``custom_vjp`` or ``custom_jvp``."""
        return self.name in names.WITH_OWN_DERIVATIVES and not self.calls_jax

    @property
    def is_stopped_by_jax(self) -> bool:
        """Whether one of JAX's own functions called ``stop_gradient``: there it has no part in what a value means."""
        traceback: Any = self.of.source_info.traceback
        frames = iter(traceback.frames if traceback else ())
        for frame in frames:
            if frame.function_name == "stop_gradient":
                break
        caller = next((frame.file_name for frame in frames if not frame.file_name.endswith(_TREES)), "")
        return caller.startswith(_OF_JAX)

    def for_types(self, inputs: Iterable[Shape]) -> Equation:
        """The equation with outputs that vary where inputs of these types do."""
        axes = varying_axes([shape for shape in inputs if says_more_than_shape(shape)])
        if not axes:
            return self
        return replace(self, shapes=tuple(jax.eval_shape(lambda a: varying(a, axes), shape) for shape in self.shapes))

    def bind(self) -> Callable[..., Any]:
        """The function of arrays that it computes, which inside ``shard_map`` all vary alike."""
        if self.name == names.SHARD_MAP:
            return _over_devices(self.params)
        primitive, params = self.of.primitive, self.of.primitive.get_bind_params(self.of.params)
        return lambda *arrays: primitive.bind(*varying(arrays, varying_axes(arrays)), **params)

    def of_outputs(self) -> list[Callable[..., Any]]:
        """The functions of arrays that compute each of its outputs."""
        function = self.bind()
        if not self.of.primitive.multiple_results:
            return [function]
        return [lambda *arrays, number=number: function(*arrays)[number] for number in range(len(self.shapes))]

    def where(self) -> str:
        """The line of the user's that it is from."""
        traceback: Any = self.caller.source_info.traceback
        for frame in traceback.frames if traceback else ():
            if frame.file_name.startswith(_NOT_THE_USERS) or "/site-packages/" in frame.file_name:
                continue
            code = linecache.getline(frame.file_name, frame.line_num).strip()
            return f"{Path(frame.file_name).name}, line {frame.line_num}" + (f" ({code})" if code else "")
        return "the function given to feasibility"


def _over_devices(params: dict[str, Any]) -> Callable[..., Any]:
    """The function that :func:`jax.shard_map` made: as an equation alone JAX does not differentiate it."""
    return jax.shard_map(
        jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(params["jaxpr"], ())),
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=list(params["out_specs"]),
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )
