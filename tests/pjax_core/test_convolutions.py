"""Convolutions of any kind: their copies laid out, their projection, and algorithms that store the copies."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj
from pjax_core.graph.nodes import Operation, Parameter

from .copies_of_products import require_norms_of_copies

KINDS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "one axis, dilated": (
        (2, 7, 2),
        (3, 2, 3),
        {"window_strides": (2,), "padding": [(2, 1)], "rhs_dilation": (2,), "dimension_numbers": ("NWC", "WIO", "NWC")},
    ),
    "groups, channels first, less than no padding": (
        (2, 4, 3, 5),
        (2, 2, 2, 2),
        {
            "window_strides": (1, 2),
            "padding": [(1, 1), (-1, 2)],
            "feature_group_count": 2,
            "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
        },
    ),
    "transposed": (
        (2, 3, 2, 2),
        (2, 3, 2, 2),
        {
            "window_strides": (1, 1),
            "padding": [(1, 1), (0, 2)],
            "lhs_dilation": (2, 3),
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
    ),
    "three axes": (
        (1, 2, 3, 2, 2),
        (2, 2, 1, 2, 2),
        {"window_strides": (1, 2, 1), "padding": "SAME", "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
    ),
    "each channel by itself": (
        (2, 3, 3, 3),
        (3, 3, 1, 3),
        {
            "window_strides": (1, 1),
            "padding": "SAME",
            "feature_group_count": 3,
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
    ),
    "groups of samples": (
        (4, 2, 3, 3),
        (4, 2, 2, 2),
        {
            "window_strides": (1, 1),
            "padding": "VALID",
            "batch_group_count": 2,
            "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
        },
    ),
}


@pytest.mark.parametrize("kind", ["groups, channels first, less than no padding", "transposed", "groups of samples"])
def test_stored_copies_are_what_factored_ones_are(kind: str) -> None:
    """And the first state is what the network computes, so that a weak loss moves nothing much."""
    x_shape, w_shape, settings = KINDS[kind]
    generator = np.random.default_rng(2)
    x, w = generator.normal(size=x_shape), generator.normal(size=w_shape)
    convolve = functools.partial(lax.conv_general_dilated, **settings)
    target = generator.normal(size=jax.eval_shape(convolve, x, w).shape)
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(convolve(x + p["shift"], p["w"]), y))
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(w), "shift": jnp.zeros(x_shape[1:])}
        changes = [
            pj.solve(problem, params, x, target, algorithm=algorithm, steps=3, tolerance=np.inf).change
            for algorithm in (pj.douglas_rachford(copies="dense"), pj.douglas_rachford(copies=pj.Factored(3)))
        ]
    for stored, factored in zip(*map(jax.tree.leaves, changes), strict=True):
        assert np.abs(factored).max() > 1e-3
        np.testing.assert_allclose(stored, factored, rtol=1e-7, atol=1e-10)


SMALL: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "one axis, dilated": ((1, 4, 1), (2, 1, 2)),
    "groups, channels first, less than no padding": ((1, 2, 2, 2), (2, 1, 2, 1)),
    "transposed": ((1, 2, 1, 1), (2, 1, 1, 1)),
    "three axes": ((1, 1, 2, 2, 1), (1, 2, 1, 1, 1)),
    "each channel by itself": ((1, 2, 1, 3), (2, 1, 1, 3)),
    "groups of samples": ((2, 1, 2, 2), (2, 1, 1, 2)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_projection(kind: str) -> None:
    *_, settings = KINDS[kind]
    generator = np.random.default_rng(3)
    inputs = [generator.normal(size=shape) for shape in SMALL[kind]]
    pj.check_projection(functools.partial(lax.conv_general_dilated, **settings), inputs, samples=20)


@pytest.mark.parametrize("kind", KINDS)
def test_squared_norms_are_those_of_the_copies(kind: str) -> None:
    x_shape, w_shape, settings = KINDS[kind]
    generator = np.random.default_rng(4)
    x, w = generator.normal(size=x_shape), generator.normal(size=w_shape)
    convolve = functools.partial(lax.conv_general_dilated, **settings)
    problem = pj.feasibility(lambda w, x: pj.squared_error(convolve(x, w), jnp.zeros_like(convolve(x, w))))
    operations = [node for node in problem.graph(np.float32(w), (np.float32(x),)).nodes if isinstance(node, Operation)]
    (node,) = (node for node in operations if node.primitive.bilinear is not None)
    inputs = [np.asarray(slot.read(lambda source: w if isinstance(source, Parameter) else x)) for slot in node.slots]
    require_norms_of_copies(node.primitive, tuple(inputs), node.settings)


@pytest.mark.parametrize("space", ["W", "HW", "DHW"])
def test_whole_layers_of_filters_in_any_layout(space: str, generator: np.random.Generator, relative_error: Any) -> None:
    """As Equinox stores them, outputs first: the direction is that of the same filters with outputs last."""
    x = np.float32(generator.normal(size=(6, *[5] * len(space), 3)))
    w = np.float32(0.4 * generator.normal(size=(*[2] * len(space), 3, 4)))
    others = {"window_strides": [1] * len(space), "padding": "SAME"}

    def direction(x: Any, w: Any, numbers: tuple[str, str, str]) -> Any:
        def constraint(w: Any, x: Any) -> Any:
            z = jnp.tanh(lax.conv_general_dilated(x, w, dimension_numbers=numbers, **others))
            return pj.squared_error(z, jnp.cos(jnp.sum(x)) * jnp.ones_like(z))

        return pj.direction(pj.feasibility(constraint, dot_products="layer"), w, x)

    last = direction(x, w, (f"N{space}C", f"{space}IO", f"N{space}C"))
    first = direction(
        np.moveaxis(x, -1, 1), w.transpose(-1, -2, *range(len(space))), (f"NC{space}", f"OI{space}", f"NC{space}")
    )
    assert relative_error(np.asarray(first).transpose(*range(2, 2 + len(space)), 1, 0), last) < 1e-4
