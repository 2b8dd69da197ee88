"""The Triton kernel of ``project_dense_copies``, interpreted: the cases and bounds of :mod:`test_dense_copies`."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import blocks

from .test_dense_copies import (
    CASES,
    CHANGES,
    SETTINGS,
    Generator,
    as_float64,
    case_layer,
    changes_of,
    check,
    exactly,
    expected_changes,
    oracle,
    project,
    random_layer,
    relative_errors,
)

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

ULPS = 4
SHAPES = [(1, 9, 7), (4, 32, 1), (3, 1, 4), (5, 17, 3), (2, 600, 3)]


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each has several rows and several tiles of columns."""
    safe = blocks.DEFAULTS["dense copies"]

    def few(shape: Sequence[int], numbers: str) -> blocks.Blocks:
        sizes, rows = safe(shape, numbers), max(1, math.isqrt(shape[0] * shape[2] // 2))
        return sizes | {"ROWS": rows, "COLUMNS": -(-rows // sizes["TILE"]) * sizes["TILE"]}

    monkeypatch.setitem(blocks.DEFAULTS, "dense copies", few)
    jax.clear_caches()


@pytest.mark.parametrize("case", ["mixed", "set-valued, equal", "set-valued, zero"])
def test_changes_agree_with_mpmath(case: str, dtype: DTypeLike) -> None:
    layer = case_layer(case, dtype)
    check(changes_of(layer, "triton"), layer, CHANGES, expected_changes(case, dtype), ULPS)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("set-valued")])
def test_every_case_agrees_with_mpmath(case: str) -> None:
    layer = case_layer(case, jnp.dtype("float32"))
    check(changes_of(layer, "triton"), layer, CHANGES, expected_changes(case, jnp.dtype("float32")), ULPS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["relaxed Douglas-Rachford", "unequal", "large and tiny"])
def test_scale_keep_and_gain(name: str, dtype: str, rng: Generator) -> None:
    settings = SETTINGS[name]
    layer = random_layer(rng, (3, 7, 4), 0.4, settings.scale, jnp.dtype(dtype))
    new = project(*layer, **settings._asdict(), implementation="triton")
    check(new, layer, settings, oracle(layer, settings.scale), ULPS)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape(shape: tuple[int, int, int], rng: Generator) -> None:
    """Tiles of one and of several columns, in programs of several rows and tiles; none of which divides the layer."""
    layer = random_layer(rng, shape, 0.3, (-1.0, -1.0), np.float32)
    settings = SETTINGS["relaxed Douglas-Rachford"]
    new = project(*layer, **settings._asdict(), implementation="triton")
    expected = exactly(layer, settings.scale)
    check(new, layer, settings, as_float64((expected.u, expected.v, expected.z_change)), ULPS)


def test_nan_in_one_copy_stays_in_its_dot_product(rng: Generator) -> None:
    layer = random_layer(rng, (2, 3, 2), 0.3, (0.0, 0.0), np.float32)
    settings = CHANGES._replace(scale=(1.0, 1.0))._asdict()
    poisoned = layer._replace(u=layer.u.copy())
    poisoned.u[0, 1, 2] = np.nan
    new = project(*poisoned, **settings, implementation="triton")
    assert [np.isnan(new.z_change).tolist(), np.isnan(new.u).any(axis=2).tolist()] == [[[False, True], [False] * 2]] * 2


@pytest.mark.parametrize("shape", [(0, 6, 4), (5, 6, 0), (0, 6, 0), (3, 0, 5)])
def test_empty_layers(shape: tuple[int, int, int]) -> None:
    batch, inner, width = shape
    x, w, none, z = (
        np.ones((batch, inner)),
        np.ones((inner, width)),
        np.ones((batch, width, inner)),
        np.full((batch, width), 0.5),
    )
    new = project(x, w, none, none, z, implementation="triton")
    expected = none, none, 0 * x, 0 * w, -z
    for result, right in zip(new, expected, strict=True):
        np.testing.assert_allclose(result, right, atol=1e-12)


def test_donated_deviations_under_jit(rng: Generator) -> None:
    settings = SETTINGS["relaxed Douglas-Rachford"]
    layer = random_layer(rng, (3, 5, 4), 0.3, settings.scale, np.float32)
    call = partial(pk.project_dense_copies, **settings._asdict(), implementation="triton")
    u, v = jnp.array(layer.u), jnp.array(layer.v)
    donated = jax.jit(call, donate_argnames=("u", "v"))(layer.x, layer.w, u, v, layer.z)
    assert max(relative_errors(donated, project(*layer, **settings._asdict()))) < 1e-6


def test_vmap(rng: Generator) -> None:
    """With the same weights for all."""
    settings = SETTINGS["unequal"]._asdict()
    layers = [random_layer(rng, (2, 3, 4), 0.3, settings["scale"], np.float32) for _ in range(2)]
    stacked = [np.stack(arrays) for arrays in zip(*layers, strict=True)]
    call = partial(pk.project_dense_copies, **settings, implementation="triton")
    new = jax.vmap(call, in_axes=(0, None, 0, 0, 0))(stacked[0], layers[0].w, *stacked[2:])
    for i, layer in enumerate(layers):
        expected = project(*layer._replace(w=layers[0].w), **settings)
        assert max(relative_errors([part[i] for part in new], expected)) < 1e-6


def test_longer_dot_products_than_fit_are_refused() -> None:
    shapes = [jax.ShapeDtypeStruct(shape, np.float64) for shape in ((1, 2049), (2049, 1), (1, 1, 2049), (1, 1, 2049))]
    call = partial(pk.project_dense_copies, implementation="triton")
    with pytest.raises(NotImplementedError, match=r"^project_dense_copies: 'triton' .* 2049 entries .* up to 2048"):
        jax.eval_shape(call, *shapes, jax.ShapeDtypeStruct((1, 1), np.float64))
