"""Training with the batch over several devices: as on one, without gathering, on every kind of mesh axes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

PROGRAM = """
import functools
import json
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import pjax_core as pj

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 8
rng = np.random.default_rng(0)
y = np.eye(2)[rng.integers(2, size=16)]


def dense(p, x):
    return pj.matmul(pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"]), p["w1"])


def residual(p, x):
    h = x + pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"])
    return pj.matmul(h + pj.relu(pj.matmul(h, p["w1"])), p["w2"])


def convolutional(p, x):
    h = pj.max_pool(pj.relu(pj.conv2d(x, p["f"])), 2)
    return pj.matmul(h.reshape(x.shape[0], -1), p["w"])


def gated_loop(p, x):
    def step(h, rows):
        return jnp.tanh(rows @ p["w0"] + h * p["b0"]) * h, None

    return jax.lax.scan(step, x[:, :6], jnp.moveaxis(x.reshape(x.shape[0], 4, 2), 1, 0))[0] @ p["w1"]


NETWORKS = {
    "loop": (gated_loop, {"w0": (2, 6), "b0": (6,), "w1": (6, 2)}, (16, 8)),
    "dense": (dense, {"w0": (8, 12), "b0": (12,), "w1": (12, 2)}, (16, 8)),
    "residual": (residual, {"w0": (8, 8), "b0": (8,), "w1": (8, 8), "w2": (8, 2)}, (16, 8)),
    "convolutional": (convolutional, {"f": (3, 3, 1, 4), "w": (16, 2)}, (16, 6, 6, 1)),
}
DIRECTIONS = {"each": "each", "rank one": "layer", "coupled": pj.Layer("coupled")}
# What is compiled, by the kind of axes; the rest is traced with the types of sharded arrays.
COMPILED = {
    "auto": {
        "dense": [pj.alternating_projections(), pj.douglas_rachford(), pj.douglas_rachford(copies=pj.Factored())],
        "convolutional": [pj.douglas_rachford()],
    },
    "explicit": {
        "dense": [
            pj.alternating_projections(),
            pj.douglas_rachford(copies=pj.Factored()),
            pj.cyclic_douglas_rachford(),
        ],
        "residual": ["rank one"],
        "convolutional": ["coupled"],
        "loop": ["each"],
    },
    "manual": {
        "loop": ["each"],
        "dense": [pj.alternating_projections(in_turn=True), pj.douglas_rachford(copies=pj.Factored())],
        "residual": ["each", "coupled"],
        "convolutional": [pj.douglas_rachford()],
    },
}
TRACED = {
    "auto": {},
    "explicit": {
        "dense": [pj.douglas_rachford(), pj.cyclic_projections(), pj.difference_map(0.7)],
        "convolutional": [pj.douglas_rachford()],
    },
    "manual": {
        "dense": [pj.alternating_projections(), pj.douglas_rachford(), pj.difference_map(0.7)],
        "residual": ["rank one"],
        "convolutional": ["coupled"],
    },
}


def problem_of(network, algorithm):
    function = NETWORKS[network][0]
    dot_products = DIRECTIONS.get(algorithm, "each")
    return pj.feasibility(lambda p, x, y: pj.margin_loss(function(p, x), y), dot_products=dot_products)


@functools.cache
def solver(network, algorithm):  # as it is, and compiled
    problem = problem_of(network, algorithm)

    def solve(p, x, y):
        if algorithm in DIRECTIONS:
            return pj.direction(problem, p, x, y)
        return pj.solve(problem, p, x, y, algorithm=algorithm, steps=3).change

    return solve, jax.jit(solve)


@functools.cache
def arrays_of(network):
    _, shapes, x_shape = NETWORKS[network]
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}, rng.normal(size=x_shape), y


@functools.cache
def on_one_device(network, algorithm):
    return jax.device_get(solver(network, algorithm)[1](*arrays_of(network)))


def mean_of_shards(network, algorithm):
    _, solve = solver(network, algorithm)
    p, x, y = arrays_of(network)
    shards = [solve(p, x[i : i + 2], y[i : i + 2]) for i in range(0, 16, 2)]
    return jax.tree.map(lambda *changes: np.mean(changes, axis=0), *shards)


def sharded(axes, network, algorithm):
    # The function of arrays over devices, and those.
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit if axes == "explicit" else AxisType.Auto,))
    function, solve = solver(network, algorithm)
    if axes == "manual":
        def averaged(p, x, y):
            return jax.lax.pmean(function(p, x, y), "batch")

        specs = P(), P("batch"), P("batch")
        solve = jax.jit(jax.shard_map(averaged, mesh=mesh, in_specs=specs, out_specs=P()))
    place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))
    p, x, y = arrays_of(network)
    return solve, (jax.tree.map(place, p), place(x, "batch"), place(y, "batch"))


def check(axes, network, algorithm):
    solve, arrays = sharded(axes, network, algorithm)
    compiled = solve.lower(*arrays).compile()
    found = compiled(*arrays)
    expected = (mean_of_shards if axes == "manual" else on_one_device)(network, algorithm)
    for name, change in expected.items():
        error = np.linalg.norm(np.asarray(found[name]) - change) / np.linalg.norm(change)
        assert error < 1e-12, (algorithm, name, error)
    moved = set(re.findall(r" (all-gather|all-to-all|collective-permute)", compiled.as_text()))
    assert not moved, (algorithm, moved)
    if axes != "manual" and algorithm == pj.alternating_projections():  # outside jit too, where arrays are checked
        eager = pj.solve(problem_of(network, algorithm), *arrays, algorithm=algorithm, steps=3)
        error = max(np.abs(np.asarray(eager.change[name]) - change).max() for name, change in expected.items())
        assert error < 1e-12, (algorithm, error)


def check_traced(axes, network, algorithm):
    solve, arrays = sharded(axes, network, algorithm)
    assert jax.tree.map(jnp.shape, solve.eval_shape(*arrays)) == jax.tree.map(jnp.shape, arrays[0])


failures = {}
for axes in COMPILED:
    failures[axes] = []
    for check_one, cases in ((check, COMPILED[axes]), (check_traced, TRACED[axes])):
        for network, algorithms in cases.items():
            for algorithm in algorithms:
                try:
                    check_one(axes, network, algorithm)
                except Exception as error:
                    failures[axes].append(f"{network}, {algorithm}: {error}")
print(json.dumps(failures))
"""


@pytest.fixture(scope="module")
def failures(run_on_devices: Callable[[str, int], str]) -> dict[str, list[str]]:
    """By kind of axes: one process for all, of which two are compared with the same results."""
    return json.loads(run_on_devices(PROGRAM, 8))


@pytest.mark.parametrize("axes", ["auto", "explicit", "manual"])
def test_batches_over_devices(axes: str, failures: dict[str, list[str]]) -> None:
    """On manual axes, inside ``shard_map``, the mean of separate calls; else the same as on one device."""
    assert not failures[axes]


RECOGNISED = """
import warnings
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
import pjax_core as pj

warnings.simplefilter("ignore")  # parameters that move by less than rounding
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
p, x, y = rng.normal(size=(3, 2)), rng.normal(size=(4, 3)), np.eye(2)[[0, 1, 1, 0]]


def feedforward(p, x):  # of functions that are known by a comparison, by constants, by data alone, by a loop over data
    of_data = jax.nn.softmax(x)[:, 1:] * (x.argmax(1)[:, None] > 0)
    sums = jax.lax.scan(lambda total, row: (total + row, total), jnp.zeros(len(x)), x.T)[1].T
    return jax.nn.elu(x @ p) + jax.nn.softmax(sums @ p * jnp.arange(2)) + of_data


NETWORKS = {
    "feedforward": feedforward,
    "recurrent": lambda p, x: jax.lax.scan(
        lambda h, row: (jnp.tanh(row[:, None] @ p[:1] + h @ p[1:]), None), jnp.zeros((len(x), 2)), x.T
    )[0],
}
for name, network in NETWORKS.items():
    def change(p, x, y):
        problem = pj.feasibility(lambda p, x, y: pj.margin_loss(network(p, x), y))
        return pj.solve(problem, p, x, y, algorithm=pj.alternating_projections(), steps=3).change

    def averaged(p, x, y):
        return jax.lax.pmean(change(p, x, y), "batch")

    whole = jax.shard_map(averaged, mesh=mesh, in_specs=(P(), P("batch"), P("batch")), out_specs=P())
    alone = jax.jit(change)
    expected = np.mean([alone(p, x[i : i + 2], y[i : i + 2]) for i in (0, 2)], axis=0)
    for call in (whole, jax.jit(whole)) if name == "feedforward" else (whole,):
        found = call(p, x, y)
        error = np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)
        assert error < 1e-12, (name, error)
"""


def test_functions_are_recognised_in_shard_map_outside_jit_too(run_on_devices: Callable[[str, int], str]) -> None:
    run_on_devices(RECOGNISED, 2)


IN_THE_NETWORK = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as S
import pjax_core as pj

mesh = jax.make_mesh((4,), ("parts",), axis_types=(AxisType.Auto,))

def over_parts(h, w):
    return jax.lax.psum(jnp.tanh(h) @ w, "parts")

def network(p, x):
    layer = jax.shard_map(over_parts, mesh=mesh, in_specs=(S(None, "parts"), S("parts")), out_specs=S())
    return layer(x @ p["w"], p["v"])

normal = np.random.default_rng(5).normal
params = {"w": 0.6 * normal(size=(6, 8)), "v": 0.4 * normal(size=(8, 3))}
params, x, y = jax.tree.map(np.float32, (params, normal(size=(32, 6)), normal(size=(32, 3))))
problem = pj.feasibility(lambda p, x, y: pj.squared_error(network(p, x), y))
value, gradient = jax.value_and_grad(lambda p: jnp.mean((network(p, x) - y) ** 2))(params)
found, direction = pj.value_and_direction(problem, params, x, y)
np.testing.assert_allclose(found, value, rtol=1e-5)
for key, change in direction.items():
    sizes = np.linalg.norm(change) * np.linalg.norm(gradient[key])
    assert np.vdot(change, gradient[key]) > 0.95 * sizes > 0, key
"""


def test_shard_map_in_a_network_is_a_function_of_arrays(run_on_devices: Callable[[str, int], str]) -> None:
    run_on_devices(IN_THE_NETWORK, 4)
