"""The benchmarks' networks compute what their descriptions say, and start as in He et al."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest


def random_params(hidden, inputs, outputs):
    params = models.mlp(hidden).init(jax.random.key(1), (inputs,), outputs)
    keys = iter(jax.random.split(jax.random.key(2), len(params)))
    return {name: 0.3 * jax.random.normal(next(keys), array.shape) for name, array in params.items()}


def test_network_without_skips():
    params = random_params((6, 6), 5, 3)
    x = jax.random.normal(jax.random.key(3), (4, 5))
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    h = jax.nn.relu(h @ params["w1"] + params["b1"])
    np.testing.assert_allclose(models.mlp((6, 6)).apply(params, x), h @ params["w2"], rtol=1e-5, atol=1e-6)


def test_network_with_skips_between_equal_widths():
    params = random_params((5, 7, 7), 5, 3)
    x = jax.random.normal(jax.random.key(4), (4, 5))
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    h = jax.nn.relu(h @ params["w1"] + params["b1"])
    h = jax.nn.relu(h @ params["w2"] + params["b2"] + h)
    network = models.mlp((5, 7, 7), skip=True).apply
    np.testing.assert_allclose(network(params, x), h @ params["w3"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [(8,), (8, 9, 8)])
def test_skip_without_equal_widths(hidden):
    with pytest.raises(models.SettingsError, match="skip needs two hidden layers of equal width"):
        models.mlp(hidden, skip=True)


def test_network_without_hidden_layers():
    with pytest.raises(models.SettingsError, match="hidden is empty"):
        models.mlp(())


def test_initialisation_keeps_the_scale_of_relu_layers():
    params = models.mlp((300,)).init(jax.random.key(0), (20, 20), 200)
    assert {name: array.shape for name, array in params.items()} == {
        "w0": (400, 300),
        "b0": (300,),
        "w1": (300, 200),
    }
    assert float(jnp.var(params["w0"])) == pytest.approx(2 / 400, rel=0.05)
    assert float(jnp.var(params["w1"])) == pytest.approx(2 / 300, rel=0.05)
    assert not np.any(params["b0"])
    assert all(array.dtype == jnp.float32 for array in params.values())


def test_initialisation_depends_on_the_key():
    first, again, other = (models.mlp((8,)).init(jax.random.key(seed), (9,), 7) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["w1"], again["w1"])
    assert np.all(first["w1"] != other["w1"])
