"""Textbook projection of a bilinear map in factored form: every copy formed, the coefficients from its root."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pjax_kernels.bilinear import reference
from pjax_kernels.bilinear_map.reference import Selection, flat, mean_at, selections
from pjax_kernels.combination import Combination, Copies, FactoredChanges, with_first_operands
from pjax_kernels.dot_products import BilinearMap


def factored_increments(
    copies: Copies, z: Array, *, bilinear: BilinearMap, precision: str | None, residual: Array | None = None
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    del precision  # of the map nothing is taken but what it selects
    x, w, u, v = copies
    selected = selections(bilinear, x[0], w[0])
    of_u, of_v = u, v
    if residual is not None:
        u, v = with_first_operands(u, v)
    u, v, of_u, of_v = jax.tree.map(
        lambda c: jnp.broadcast_to(jnp.asarray(c, z.dtype), z.shape).ravel(), (u, v, of_u, of_v)
    )
    flat_x, flat_w, flat_z = [flat(a) for a in x], [flat(a) for a in w], z.ravel()

    def formed(combination: Combination, chosen: Selection) -> Array:
        terms = [jnp.asarray(c)[chosen.outputs, None] * a[chosen.x] for c, a in zip(combination.x, flat_x, strict=True)]
        terms += [
            jnp.asarray(c)[chosen.outputs, None] * a[chosen.w] for c, a in zip(combination.w, flat_w, strict=True)
        ]
        return sum(terms, jnp.zeros(chosen.x.shape, z.dtype))

    t, beta, gamma, radius = (jnp.zeros_like(flat_z) for _ in range(4))
    for chosen in selected:
        a, b = formed(u, chosen), formed(v, chosen)
        known = None
        if residual is not None:
            growth = formed(of_u, chosen) * flat_w[0][chosen.w] + a * formed(of_v, chosen)
            known = residual.ravel()[chosen.outputs] - jnp.sum(growth, axis=-1)
        found = reference.bilinear_root(a, b, flat_z[chosen.outputs], known)
        t, beta, gamma, radius = (
            everywhere.at[chosen.outputs].set(here)
            for everywhere, here in zip((t, beta, gamma, radius), found, strict=True)
        )

    def changed(own: Combination, other: Combination) -> Combination:
        return jax.tree.map(lambda a, b: gamma * a + beta * b, own, other)

    u_change, v_change = changed(u, v), changed(v, u)
    u_copies, v_copies = ([formed(change, chosen) for chosen in selected] for change in (u_change, v_change))
    u_change, v_change = jax.tree.map(lambda c: c.reshape(z.shape), (u_change, v_change))
    squared_free = jnp.sum((1 + t**2) * radius**2)
    squared: Array = sum((jnp.sum(change**2) for change in (*u_copies, *v_copies)), squared_free)

    return FactoredChanges(
        u_change,
        v_change,
        x_mean=mean_at(x[0], [chosen.x for chosen in selected], u_copies),
        w_mean=mean_at(w[0], [chosen.w for chosen in selected], v_copies),
        z_change=-t.reshape(z.shape),
        squared_change=squared,
        squared_free=squared_free,
    )
