"""Against what the paper's published implementation computes, in float64."""

import jax.numpy as jnp
import numpy as np

import pjax_kernels as pk

Array = np.ndarray


def change_error(new: Array, expected: Array, start: Array) -> float:
    return float(np.linalg.norm(new - expected) / np.linalg.norm(expected - start))


def test_bilinear(published: dict[str, Array], implementation: str) -> None:
    a, b, z = (published[f"bilinear/{name}"] for name in ("a", "b", "z"))
    new_a, new_b, new_z = pk.project_bilinear(a, b, z, implementation=implementation)
    expected_a, expected_b = published["bilinear/a_new"], published["bilinear/b_new"]
    assert change_error(np.asarray(new_a), expected_a, a) < 1e-9
    assert change_error(np.asarray(new_b), expected_b, b) < 1e-9
    assert change_error(np.asarray(new_z), np.sum(expected_a * expected_b, axis=-1), z) < 1e-9


def test_sum_relu(published: dict[str, Array], implementation: str) -> None:
    """The published code does not return the nearest point where the sum s and z are both negative and far apart.

    There the nearest point is ``(a, b, 0)``, already feasible inputs, or, with ``z/s`` above ``(sqrt(3) - 1)/2``,
    still that one, while the published code moves the inputs to ``s = 0``.  Elsewhere the two agree.
    """
    a, b, z = (published[f"sum_relu/{name}"] for name in ("a", "b", "z"))
    expected_a, expected_b = published["sum_relu/a_new"], published["sum_relu/b_new"]
    (new_a, new_b), new_z = pk.project_sum_relu((jnp.asarray(a), jnp.asarray(b)), z, implementation=implementation)
    new_a, new_b, new_z = (np.asarray(array) for array in (new_a, new_b, new_z))
    total = a + b
    excepted = (total < 0) & (z < 0) & (z < (3**0.5 - 1) / 2 * total)
    assert change_error(new_a[~excepted], expected_a[~excepted], a[~excepted]) < 1e-9
    assert change_error(new_b[~excepted], expected_b[~excepted], b[~excepted]) < 1e-9

    assert excepted.any()
    np.testing.assert_allclose(new_z, np.maximum(new_a + new_b, 0), rtol=0, atol=1e-14)
    expected_z = np.maximum(expected_a + expected_b, 0)
    ours = (new_a - a) ** 2 + (new_b - b) ** 2 + (new_z - z) ** 2
    theirs = (expected_a - a) ** 2 + (expected_b - b) ** 2 + (expected_z - z) ** 2
    differ = np.hypot(new_a - expected_a, new_b - expected_b) > 1e-9
    assert (ours <= theirs * (1 + 1e-12)).all()
    assert (ours < theirs)[differ].all()
    assert differ[excepted].any()


def test_max(published: dict[str, Array], implementation: str) -> None:
    x, z, expected = (published[f"max/{name}"] for name in ("a", "z", "a_new"))
    new_x, new_z = pk.project_max(x, z, implementation=implementation)
    assert (z > x.max(axis=1)).any()
    assert change_error(np.asarray(new_x), expected, x) < 1e-12
    assert change_error(np.asarray(new_z), expected.max(axis=1), z) < 1e-12


def test_quantize(published: dict[str, Array], implementation: str) -> None:
    """Inputs that move come to midpoints of levels, from either side."""
    x, z, expected = (published[f"quantize/{name}"] for name in ("a", "z", "a_new"))
    new_x, new_z = pk.project_quantize(x, z, levels=4, scale=1.0, implementation=implementation)
    assert change_error(np.asarray(new_x), expected, x) < 1e-12
    moved = abs(expected - x) > 0
    np.testing.assert_allclose(abs(expected[moved]) % (2 / 3), np.zeros(moved.sum()), rtol=0, atol=1e-12)
    np.testing.assert_allclose(abs(np.asarray(new_x) - new_z).clip(max=1 / 3)[moved], 1 / 3, rtol=0, atol=1e-12)
