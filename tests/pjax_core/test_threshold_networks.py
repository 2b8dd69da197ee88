"""The search for circuits: a step against the definitions, found circuits, stopping, restarting and resuming."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
import pjax_kernels as pk

from ..compilations import compilations

Array = np.ndarray

ANY = pj.gap_below(1e-2, every=50, any_of="starts")
X = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
XOR = -X[:, :1] * X[:, 1:]
NETWORK = pj.ThresholdNetwork((2, 2, 1))


@pytest.mark.parametrize("codes", [None, "bits", "one-hot"])
def test_a_step_is_that_of_the_definitions(codes: str | None) -> None:
    """Against the projections on all copies in float64, by the reference kernel, with a metric that is not even."""
    network = pj.ThresholdNetwork((3, 4, 2))
    x, y = (np.sign(np.random.default_rng(seed).normal(size=(5, n))) for seed, n in ((0, 3), (1, 2)))
    search = pj.CircuitSearch(network, lanes=2, starts=2, beta=0.3, gamma=0.01, codes=codes or "bits")
    state = search.init(jax.random.key(3), None if codes else x, y)
    layers = [replace(layer, metric=1 + abs(layer.outputs)) for layer in state.layers]
    from pjax_core.threshold_networks import _step

    new, new_codes, weights, gap = _step(search, state, layers, state.codes)
    for lane in range(2):
        of_lane = jax.tree.map(lambda array, lane=lane: np.asarray(array, np.float64)[..., lane], (layers, state.codes))
        found = jax.tree.map(lambda array, lane=lane: np.asarray(array)[..., lane], (new, new_codes, weights, gap))
        wanted = step_by_definition(search, *of_lane, x, y, codes)
        for (w, z_in, z, g), layer in zip(wanted[0], found[0], strict=True):
            for exact, computed in zip(
                (w, z_in, z, g), (layer.weights, layer.inputs, layer.outputs, layer.metric), strict=True
            ):
                np.testing.assert_allclose(computed, exact, atol=2e-5)
        for exact, computed in zip(wanted[2], found[2], strict=True):
            np.testing.assert_allclose(computed, exact, atol=1e-5)
        np.testing.assert_allclose(found[3], wanted[3], rtol=1e-5)
        if codes:
            np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)


def step_by_definition(search, layers, codes, x, y, kind):  # type: ignore[no-untyped-def]
    """One step for one start: P_A, the reflection, P_B, the relaxation, then the metric."""
    with jax.enable_x64(True):
        on_a = [
            [
                np.asarray(array)
                for array in pk.project_threshold(
                    layer.weights,
                    layer.inputs,
                    layer.outputs,
                    margin=math.sqrt(len(layer.weights) / 3),
                    axis=0,
                    implementation="reference",
                )
            ]
            for layer in layers
        ]
    codes_on_a = None
    if kind == "bits":
        codes_on_a = np.where(codes < 0, -1, 1)
    if kind == "one-hot":
        codes_on_a = np.where(codes == codes.max(axis=0), 1, -1)
    reflected = [
        [2 * p - z for p, z in zip(a, copies(layer), strict=True)] for a, layer in zip(on_a, layers, strict=True)
    ]

    weights = []
    for (w, _, _), layer in zip(reflected, layers, strict=True):
        mean = (layer.metric * w).sum(2) / layer.metric.sum(1)
        weights.append(mean * np.sqrt(len(mean) / (mean**2).sum(0)))
    values = [x.T if kind is None else None]
    if kind:
        total = 2 * codes_on_a - codes + (layers[0].metric * reflected[0][1][1:]).sum(1)
        values[0] = total / (1 + layers[0].metric.sum(0))
    for k in range(len(layers) - 1):
        total = layers[k].metric * reflected[k][2] + (layers[k + 1].metric * reflected[k + 1][1][1:]).sum(1)
        values.append(total / (layers[k].metric + layers[k + 1].metric.sum(0)))
    values.append(y.T)

    gaps, moved = [], []
    for k, (a, layer) in enumerate(zip(on_a, layers, strict=True)):
        inputs = np.concatenate([np.full((1, values[k].shape[1]), -1), values[k]])
        gap = [weights[k][:, :, None] - a[0], inputs[:, None] - a[1], values[k + 1] - a[2]]
        gaps.append((gap[0] ** 2 + gap[1] ** 2).sum(0) + gap[2] ** 2)
        moved.append([z + search.beta * g for z, g in zip(copies(layer), gap, strict=True)])
    mean = np.mean(np.concatenate([gap.ravel() for gap in gaps]))
    new = [
        (*z, layer.metric + search.gamma * (gap / mean - layer.metric))
        for z, layer, gap in zip(moved, layers, gaps, strict=True)
    ]
    return new, kind and codes + search.beta * (values[0] - codes_on_a), weights, math.sqrt(mean)


def copies(layer):  # type: ignore[no-untyped-def]
    return layer.weights, layer.inputs, layer.outputs


@pytest.fixture(scope="module")
def found() -> pj.Circuits:
    search = pj.CircuitSearch(NETWORK, starts=12, steps=3000, lanes=4)
    return search.run(search.init(jax.random.key(0), X, XOR)).found


def test_finds_exclusive_or(found: pj.Circuits) -> None:
    """Every solved start computes it, with the weights as they are and with integers in their place."""
    assert found.solved.sum() >= 6
    assert np.all(found.gap[found.solved] < 1e-2)
    assert np.all(found.steps[found.solved] < 3000)
    assert np.all(found.steps[~found.solved] >= 3000)
    for start in np.flatnonzero(found.solved):
        weights = [matrix[start] for matrix in found.weights]
        np.testing.assert_array_equal(NETWORK(weights, X), XOR)
        np.testing.assert_array_equal(NETWORK(NETWORK.rounded(weights, X), X), XOR)


def test_starts_do_not_depend_on_the_lanes(found: pj.Circuits) -> None:
    search = pj.CircuitSearch(NETWORK, starts=12, steps=3000, lanes=5)
    other = search.run(search.init(jax.random.key(0), X, XOR)).found
    # The compiled programs round differently, which long searches amplify.
    assert np.mean(np.asarray(other.steps) == np.asarray(found.steps)) >= 0.5


def test_goes_on_bit_for_bit(found: pj.Circuits, tmp_path) -> None:  # type: ignore[no-untyped-def]
    search = pj.CircuitSearch(NETWORK, starts=12, steps=3000, lanes=4)
    state = search.run(search.init(jax.random.key(0), X, XOR), rounds=7)
    leaves, structure = jax.tree.flatten(replace(state, key=jax.random.key_data(state.key)))
    np.savez(tmp_path / "state.npz", *leaves)
    with np.load(tmp_path / "state.npz") as file:
        state = jax.tree.unflatten(structure, [jnp.asarray(file[f"arr_{i}"]) for i in range(len(leaves))])
    state = search.run(replace(state, key=jax.random.wrap_key_data(state.key)))
    assert search.ended(state)
    jax.tree.map(np.testing.assert_array_equal, state.found, found)


def test_may_stop_at_the_first_solution(found: pj.Circuits) -> None:
    search = pj.CircuitSearch(NETWORK, starts=12, steps=3000, lanes=4, until=ANY)
    state = search.run(search.init(jax.random.key(0), X, XOR))
    assert search.ended(state)
    assert 1 <= state.found.solved.sum() < found.solved.sum()


def test_free_inputs_become_codes() -> None:
    """Four words from free inputs: the codes that are found generate the words."""
    words = np.array([[1, 1, -1], [1, -1, -1], [-1, 1, 1], [-1, -1, 1]], np.float32)
    search = pj.CircuitSearch(pj.ThresholdNetwork((2, 3), 2), starts=8, steps=3000, lanes=8, until=ANY)
    state = search.run(search.init(jax.random.key(0), None, words))
    solved = np.flatnonzero(state.found.solved)
    assert len(solved)
    all_codes = np.asarray(search.network([w[solved[0]] for w in state.found.weights], X))
    assert {tuple(word) for word in words} <= {tuple(word) for word in all_codes}


def test_a_second_search_compiles_nothing() -> None:
    search = pj.CircuitSearch(NETWORK, starts=2, steps=100, lanes=2)
    search.run(search.init(jax.random.key(0), X, XOR))
    with compilations() as seen:
        again = pj.CircuitSearch(pj.ThresholdNetwork((2, 2, 1)), starts=2, steps=100, lanes=2)
        again.run(again.init(jax.random.key(1), X, XOR), rounds=1)
    assert seen == []


def test_memory_does_not_grow_with_steps() -> None:
    def memory(steps: int) -> tuple[int, int]:
        search = pj.CircuitSearch(NETWORK, starts=4, steps=steps, lanes=2)
        state = jax.eval_shape(lambda: search.init(jax.random.key(0), X, XOR))
        found = jax.jit(search.run).lower(state).compile().memory_analysis()
        return found.temp_size_in_bytes, found.output_size_in_bytes

    assert memory(100_000) == memory(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pj.ThresholdNetwork((4,)), "widths are"),
        (lambda: pj.ThresholdNetwork((4, 2), 9), "gate_inputs is 9"),
        (lambda: pj.CircuitSearch(NETWORK, beta=2.0), "beta is 2.0; pass a number between 0 and 2"),
        (lambda: pj.CircuitSearch(NETWORK, until="any"), "until is 'any'; pass pj.gap_below"),
        (lambda: pj.CircuitSearch(NETWORK, until=pj.gap_below(0.1, any_of="rows")), "until is Until.*any_of='rows'"),
        (lambda: pj.CircuitSearch(NETWORK).init(jax.random.key(0), X, X), r"y has shape \(4, 2\)"),
        (lambda: pj.CircuitSearch(NETWORK).init(jax.random.key(0), X[:3], XOR), "x has 3 items and y 4"),
        (lambda: pj.CircuitSearch(NETWORK).init(jax.random.key(0), X, XOR / 2), "other than 1 and -1"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
