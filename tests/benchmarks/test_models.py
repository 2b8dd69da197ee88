"""The benchmarks' networks compute what their descriptions say, and start as in He et al."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.train import models


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
    params = models.mlp((300,)).init(jax.random.key(0), (20, 20, 1), 200)
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


def test_mlp_takes_images_as_rows():
    params = random_params((6,), 20, 3)
    x = jax.random.normal(jax.random.key(5), (4, 5, 2, 2))
    network = models.mlp((6,)).apply
    np.testing.assert_array_equal(network(params, x), network(params, x.reshape(4, 20)))


def levels_of(sums, levels):
    """The nearest of equally spaced levels from -1 to 1."""
    every = np.linspace(-1, 1, levels)
    return every[np.abs(np.asarray(sums)[..., None] - every).argmin(-1)]


@pytest.mark.parametrize("levels", [2, 5])
def test_quantized_mlp_rounds_its_activations(levels):
    params = random_params((6, 6), 5, 3)
    x = jax.random.normal(jax.random.key(6), (4, 5))
    h = levels_of(x @ params["w0"] + params["b0"], levels)
    h = levels_of(h @ params["w1"] + params["b1"], levels)
    network = models.mlp((6, 6), levels=levels).apply
    np.testing.assert_allclose(network(params, x), h @ params["w2"], rtol=1e-5, atol=1e-6)


def convolution(x, w, stride):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("strides", "levels"), [(None, None), ((2, 1), None), ((1, 1), 3)])
def test_cnn_is_convolutions_and_maxima(strides, levels):
    model = models.cnn((4, 5), strides, levels)
    params = model.init(jax.random.key(7), (6, 7, 2), 3)
    params = {name: array + 0.2 for name, array in params.items()}
    assert {name: array.shape for name, array in params.items()} == {
        "w0": (3, 3, 2, 4),
        "b0": (4,),
        "w1": (3, 3, 4, 5),
        "b1": (5,),
        "w2": (5, 3),
    }
    activation = jax.nn.relu if levels is None else lambda sums: levels_of(sums, levels)
    h = x = jax.random.normal(jax.random.key(8), (2, 6, 7, 2))
    for k, stride in enumerate(strides or (1, 1)):
        h = activation(convolution(h, params[f"w{k}"], stride) + params[f"b{k}"])
    np.testing.assert_allclose(model.apply(params, x), h.max((1, 2)) @ params["w2"], rtol=1e-4, atol=1e-5)


def test_initialisation_of_convolutions():
    params = models.cnn((50, 60)).init(jax.random.key(9), (8, 8, 20), 10)
    assert float(jnp.var(params["w0"])) == pytest.approx(2 / 180, rel=0.05)
    assert float(jnp.var(params["w1"])) == pytest.approx(2 / 450, rel=0.05)


def test_strides_for_another_number_of_convolutions():
    with pytest.raises(models.SettingsError, match="strides are .2,. for 2 convolutions: pass one for each"):
        models.cnn((4, 5), (2,))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (models.mlp((4,)), (16, 65), "mlp takes features or images, not sequences: pass rnn"),
        (models.cnn((4,)), (28,), r"cnn takes images, but a sample has shape \(28,\)"),
        (models.cnn((4,)), (16, 65), r"cnn takes images, but a sample has shape \(16, 65\)"),
        (models.rnn((4,)), (8, 8, 1), r"rnn takes sequences, but a sample has shape \(8, 8, 1\)"),
    ],
)
def test_data_of_another_kind(model, shape, message):
    with pytest.raises(models.SettingsError, match=message):
        model.init(jax.random.key(0), shape, 10)


def test_rnn_is_recurrences_and_a_matrix():
    model = models.rnn((4, 6))
    params = model.init(jax.random.key(10), (5, 3), 3)
    params = {name: array + 0.1 for name, array in params.items()}
    x = jax.random.normal(jax.random.key(11), (2, 5, 3))
    h = np.asarray(x)
    for k, width in enumerate((4, 6)):
        states = [np.zeros((2, width))]
        for t in range(5):
            sums = h[:, t] @ params[f"w{k}"] + states[-1] @ params[f"u{k}"] + params[f"b{k}"]
            states.append(np.maximum(sums, 0))
        h = np.stack(states[1:], axis=1)
    np.testing.assert_allclose(model.apply(params, x), h @ params["w2"], rtol=1e-4, atol=1e-5)


def test_initialisation_of_recurrences():
    params = models.rnn((90, 100)).init(jax.random.key(12), (8, 80), 70)
    assert {name: array.shape for name, array in params.items()} == {
        "w0": (80, 90),
        "u0": (90, 90),
        "b0": (90,),
        "w1": (90, 100),
        "u1": (100, 100),
        "b1": (100,),
        "w2": (100, 70),
    }
    assert float(jnp.var(params["w0"])) == pytest.approx(2 / 80, rel=0.07)
    assert float(jnp.var(params["u0"])) == pytest.approx(2 / 90, rel=0.07)
