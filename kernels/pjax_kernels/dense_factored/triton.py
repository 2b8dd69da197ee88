"""Projection of a dense layer in factored form on a GPU: inner products, roots, changes of coefficients in one kernel.

Where ``precision`` allows tensor cores, the kernel multiplies all pairs of operands itself: the products of a tile stay
in registers until the coefficients combine them, and never reach memory.  Otherwise XLA's product of all joined
operands comes first, as full float32 runs on no tensor core.  Every coefficient is read for ``p`` and ``q``, a second
time, from a cache, to be changed, and its change is written once.  The products that make the means are XLA's.  Under
:func:`jax.vmap`, several layers are one launch.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import NamedTuple

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array, lax

from pjax_kernels import blocks, gpu, root_triton
from pjax_kernels.combination import Coefficient, Combination, Copies, FactoredChanges
from pjax_kernels.dense.triton import product_on_tensor_cores


class Layer(NamedTuple):
    """A layer's shape and operands, for its kernels.

    ``ONES`` and ``ARRAYS`` are bits for the coefficients of u and then of v, each for ``x`` and then ``w``.  Where the
    residual is known, these are what u and v have beside the first of ``x`` and of ``w``.
    """

    BATCH: int
    LENGTH: int
    WIDTH: int
    X_COUNT: int
    W_COUNT: int
    ONES: int
    ARRAYS: int
    HAS_RESIDUAL: bool


def factored_increments(
    copies: Copies, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    x, w, u, v = copies
    several = [*u.x, *u.w, *v.x, *v.w]
    # The numbers 0 and 1 cost nothing in the kernel, others are arrays.
    ones = [isinstance(c, float) and c == 1 for c in several]
    zeros = [isinstance(c, float) and c == 0 for c in several]
    is_array = [not (one or zero) for one, zero in zip(ones, zeros, strict=True)]
    arrays = [jnp.broadcast_to(jnp.asarray(c, z.dtype), z.shape) for c in compress(several, is_array)]
    known = z if residual is None else residual.astype(z.dtype)
    (batch, width), length = z.shape, x[0].shape[1]
    layer = Layer(batch, length, width, len(x), len(w), _bits(ones), _bits(is_array), residual is not None)

    def project(*layers: Array) -> tuple[Array, ...]:
        rest = iter(layers)
        rows, columns, coefficients = ([next(rest) for _ in group] for group in (x, w, arrays))
        return _project_layers(rows, columns, coefficients, next(rest), layer, precision)

    found = gpu.over_leading_axis(project)(*(array[None] for array in (*x, *w, *arrays, known)))
    u_x, v_x, u_w, v_w, x_mean, w_mean, z_change, squared = (array[0] for array in found)
    moves = [not (of_u and of_v) for of_u, of_v in zip(zeros[: len(x) + len(w)], zeros[len(x) + len(w) :], strict=True)]
    if residual is not None:
        moves[0] = moves[len(x)] = True

    def combination(of_x: Array, of_w: Array) -> Combination:
        changes: Iterator[Coefficient] = (
            change if moved else 0.0 for change, moved in zip([*of_x, *jnp.moveaxis(of_w, 1, 0)], moves, strict=True)
        )
        return Combination(tuple(next(changes) for _ in x), tuple(changes))

    return FactoredChanges(
        combination(u_x, u_w), combination(v_x, v_w), x_mean, w_mean, z_change, squared[0] + squared[1], squared[1]
    )


def _bits(flags: Sequence[bool]) -> int:
    return sum(flag << place for place, flag in enumerate(flags))


def _project_layers(
    x: Sequence[Array],
    w: Sequence[Array],
    coefficients: Sequence[Array],
    known: Array,
    layer: Layer,
    precision: lax.PrecisionLike,
) -> tuple[Array, ...]:
    """Of several like the ``layer`` along the first axis; ``known`` are the residuals or ``z``.

    Returns the changes of u and v, of those for ``x`` (L, I, B, M) and then of those for ``w`` (L, B, J, M), the means
    of ``x`` and ``w``, the change of ``z``, and the sums of squares (L, 2) of what is kept and of what is left out.
    """
    layers, batch, width = known.shape
    # Joined so that each sum of products, here and of the changes, is one product.
    rows, columns = jnp.concatenate(x, axis=1), jnp.concatenate(w, axis=2)
    inputs = (
        _products_with_earlier(x, axis=2),
        _products_with_earlier(w, axis=1),
        jnp.stack(coefficients, axis=1) if coefficients else known,
        known,
    )
    found = _launch(inputs, rows, columns, layer, precision)
    z_change, u_x, v_x, u_w, v_w, x_sums, w_sums, squared = found

    x_sums, w_sums = jnp.sum(x_sums, axis=1), jnp.sum(w_sums, axis=1)
    x_sum = jnp.matmul(u_w.reshape(layers, batch, len(w) * width), columns.mT, precision=precision)
    w_sum = jnp.matmul(rows.mT, v_x.reshape(layers, len(x) * batch, width), precision=precision)
    x_sum = x_sum + sum(x_sums[:, k, :, None] * array for k, array in enumerate(x))
    w_sum = w_sum + sum(w_sums[:, k, None] * array for k, array in enumerate(w))
    means = x_sum / max(width, 1), w_sum / max(batch, 1)
    return u_x, v_x, u_w, v_w, *means, z_change, jnp.sum(squared, axis=1)


def _products_with_earlier(operands: Sequence[Array], axis: int) -> Array:
    """Of each operand's vectors, along ``axis``, with those of the operands before it, and half of their own."""
    return jnp.stack(
        [jnp.sum(a * b, axis=axis) for k, a in enumerate(operands) for b in (*operands[:k], 0.5 * a)], axis=1
    )


def _launch(
    inputs: Sequence[Array], rows: Array, columns: Array, layer: Layer, precision: lax.PrecisionLike
) -> tuple[Array, ...]:
    """The change of ``z``, those of coefficients, the sums of the changes over a tile, and the sums of squares."""
    known = inputs[-1]
    layers, batch, width = known.shape
    product = product_on_tensor_cores(precision, known)
    name = "factored" if product else "factored, XLA's products"
    shape = layers, batch, layer.LENGTH, width, layer.X_COUNT * layer.W_COUNT
    sizes = blocks.find(name, shape, product or known.dtype.name)
    row_blocks, column_blocks = triton.cdiv(batch, sizes["ROWS"]), triton.cdiv(width, sizes["COLUMNS"])
    of_x, of_w = (layers, layer.X_COUNT, batch, width), (layers, batch, layer.W_COUNT, width)
    sums = (layers, column_blocks, layer.X_COUNT, batch), (layers, row_blocks, layer.W_COUNT, width)
    shapes = known.shape, of_x, of_x, of_w, of_w, *sums, (layers, row_blocks * column_blocks, 2)
    common = sizes | {
        "outputs": [(shape, known.dtype) for shape in shapes],
        "grid": (row_blocks * column_blocks, layers),
        "LAYER": layer,
    }
    if product is None:
        return gpu.launch(_solve, *inputs, jnp.matmul(rows, columns, precision=precision), **common)
    return gpu.launch(_multiply_and_solve, *inputs, rows, columns, PRECISION=product, **common)


@triton.jit
def _multiply_and_solve(
    x_products_ptr,
    w_products_ptr,
    coefficients_ptr,
    known_ptr,
    x_ptr,
    w_ptr,
    z_change_ptr,
    u_x_ptr,
    v_x_ptr,
    u_w_ptr,
    v_w_ptr,
    x_sums_ptr,
    w_sums_ptr,
    squares_ptr,
    LAYER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile = _place(LAYER, ROWS, COLUMNS)
    products = _products_of_tile(x_ptr, w_ptr, tile, LAYER, ROWS, COLUMNS, INNER, PRECISION)
    inputs = (x_products_ptr, w_products_ptr, coefficients_ptr, known_ptr)
    outputs = (z_change_ptr, u_x_ptr, v_x_ptr, u_w_ptr, v_w_ptr, x_sums_ptr, w_sums_ptr, squares_ptr)
    _solve_tile(inputs, products, outputs, tile, LAYER)


@triton.jit
def _products_of_tile(
    x_ptr,
    w_ptr,
    tile,
    LAYER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One product of all operands' rows and all operands' columns of a tile, as if they were neighbours, in parts."""
    layer, row_block, column_block = tile[0], tile[1], tile[2]
    x_blocks: tl.constexpr = triton.next_power_of_2(LAYER.X_COUNT)
    w_blocks: tl.constexpr = triton.next_power_of_2(LAYER.W_COUNT)
    some_row, some_column = tl.arange(0, x_blocks * ROWS), tl.arange(0, w_blocks * COLUMNS)
    x_row, w_column = row_block * ROWS + some_row % ROWS, column_block * COLUMNS + some_column % COLUMNS
    is_row = (some_row // ROWS < LAYER.X_COUNT) & (x_row < LAYER.BATCH)
    is_column = (some_column // COLUMNS < LAYER.W_COUNT) & (w_column < LAYER.WIDTH)
    x_place = (layer * LAYER.X_COUNT + some_row // ROWS) * LAYER.BATCH + x_row
    w_place = some_column.to(tl.int64) // COLUMNS * LAYER.WIDTH + w_column
    x_row_ptr = x_ptr + x_place[:, None] * LAYER.LENGTH
    w_column_ptr = w_ptr + layer * (LAYER.LENGTH * LAYER.W_COUNT * LAYER.WIDTH) + w_place[None, :]
    joined = tl.zeros((x_blocks * ROWS, w_blocks * COLUMNS), tl.float32)
    for first in range(0, LAYER.LENGTH, INNER):
        entry = first + tl.arange(0, INNER)
        is_entry = entry < LAYER.LENGTH
        x = tl.load(x_row_ptr + entry[None, :], mask=is_row[:, None] & is_entry[None, :], other=0.0)
        w_entry_ptr = w_column_ptr + entry.to(tl.int64)[:, None] * (LAYER.W_COUNT * LAYER.WIDTH)
        w = tl.load(w_entry_ptr, mask=is_entry[:, None] & is_column[None, :], other=0.0)
        joined = tl.dot(x, w, joined, input_precision=PRECISION)
    pairs = tl.permute(tl.reshape(joined, (x_blocks, ROWS, w_blocks, COLUMNS)), (1, 3, 0, 2))
    return _parts(tl.reshape(pairs, (ROWS, COLUMNS, x_blocks * w_blocks)), x_blocks * w_blocks)


@triton.jit
def _parts(block, COUNT: tl.constexpr):
    """The ``COUNT`` blocks along the last axis, a power of two of them."""
    if COUNT == 1:
        parts = (tl.reshape(block, (block.shape[0], block.shape[1])),)
    else:
        halves = tl.reshape(block, (block.shape[0], block.shape[1], 2, COUNT // 2))
        first, second = tl.split(tl.permute(halves, (0, 1, 3, 2)))
        parts = _parts(first, COUNT // 2) + _parts(second, COUNT // 2)
    return parts


@triton.jit
def _solve(
    x_products_ptr,
    w_products_ptr,
    coefficients_ptr,
    known_ptr,
    products_ptr,
    z_change_ptr,
    u_x_ptr,
    v_x_ptr,
    u_w_ptr,
    v_w_ptr,
    x_sums_ptr,
    w_sums_ptr,
    squares_ptr,
    LAYER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    inputs = (x_products_ptr, w_products_ptr, coefficients_ptr, known_ptr)
    outputs = (z_change_ptr, u_x_ptr, v_x_ptr, u_w_ptr, v_w_ptr, x_sums_ptr, w_sums_ptr, squares_ptr)
    _solve_tile(inputs, products_ptr, outputs, _place(LAYER, ROWS, COLUMNS), LAYER)


@triton.jit
def _place(LAYER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile: its layer, its place among the row and the column blocks, its rows and its columns.

    Neighbours in time share operands in the L2 cache.
    """
    row_blocks, column_blocks = tl.cdiv(LAYER.BATCH, ROWS), tl.cdiv(LAYER.WIDTH, COLUMNS)
    place = tl.program_id(0)
    row_block, column_block = tl.swizzle2d(place // column_blocks, place % column_blocks, row_blocks, column_blocks, 8)
    row, column = row_block * ROWS + tl.arange(0, ROWS), column_block * COLUMNS + tl.arange(0, COLUMNS)
    return tl.program_id(1).to(tl.int64), row_block, column_block, row, column


@triton.jit
def _entries(tile, LAYER: tl.constexpr):
    """The places of a tile's entries in arrays ``(B, M)``, those in arrays ``(B, J, M)``, and which entries exist."""
    _, _, _, row, column = tile
    inside = (row < LAYER.BATCH)[:, None] & (column < LAYER.WIDTH)[None, :]
    rows = row.to(tl.int64)[:, None]
    return rows * LAYER.WIDTH + column[None, :], rows * (LAYER.W_COUNT * LAYER.WIDTH) + column[None, :], inside


@triton.jit
def _coefficients(coefficients_ptr, tile, LAYER: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Those of u and those of v for ``COUNT`` operands from the ``FIRST``."""
    u, v = (), ()
    for k in tl.static_range(FIRST, FIRST + COUNT):
        u = u + (_coefficient(coefficients_ptr, tile, LAYER, k),)
        v = v + (_coefficient(coefficients_ptr, tile, LAYER, LAYER.X_COUNT + LAYER.W_COUNT + k),)
    return u, v


@triton.jit
def _coefficient(coefficients_ptr, tile, LAYER: tl.constexpr, NUMBER: tl.constexpr):
    """A block, or the number 0."""
    place, _, inside = _entries(tile, LAYER)
    size: tl.constexpr = LAYER.BATCH * LAYER.WIDTH
    if (LAYER.ARRAYS >> NUMBER) & 1:
        first_ptr = coefficients_ptr + (tile[0] * (_number_before(LAYER.ARRAYS, 64) * size) + place)
        found = tl.load(first_ptr + _number_before(LAYER.ARRAYS, NUMBER) * size, mask=inside, other=0.0)
    elif (LAYER.ONES >> NUMBER) & 1:
        found = tl.full(inside.shape, 1, coefficients_ptr.dtype.element_ty)
    else:
        found: tl.constexpr = 0
    return found


@triton.jit
def _whole(coefficients, one, LAYER: tl.constexpr, SIDE: tl.constexpr):
    """With 1 more for the first operand: of ``x``, at ``SIDE`` 0, in u, and of ``w``, at 1, in v, if it is apart."""
    found = coefficients
    if LAYER.HAS_RESIDUAL:
        COUNT: tl.constexpr = LAYER.W_COUNT if SIDE else LAYER.X_COUNT
        raised = (one + coefficients[SIDE][0],)
        for k in tl.static_range(1, COUNT):
            raised = raised + (coefficients[SIDE][k],)
        found = (coefficients[0], raised) if SIDE else (raised, coefficients[1])
    return found


@triton.constexpr_function
def _number_before(bits, place):
    """How many of the lowest ``place`` bits are set."""
    return (bits & ((1 << place) - 1)).bit_count()


@triton.jit
def _inner_products(inputs, products, added_x, added_w, tile, LAYER: tl.constexpr):
    """``p = u . v`` and ``q = |u|^2 + |v|^2``, from the products of pairs of operands, and the coefficients.

    Where these add to the first operands, ``p`` is by how much the product of these grows.  An operand's products with
    those before it, and half of its own, are summed first: that takes the fewest operations, and the time that Triton
    compiles for grows with their square.
    """
    # Triton before 3.9 unrolls loops over constants only that have a name of their own.
    X_COUNT: tl.constexpr = LAYER.X_COUNT
    W_COUNT: tl.constexpr = LAYER.W_COUNT
    x_products_ptr, w_products_ptr = inputs[0], inputs[1]
    layer, row, column = tile[0], tile[3], tile[4]
    zero = tl.zeros((row.shape[0], column.shape[0]), x_products_ptr.dtype.element_ty)
    of_x, of_w = _whole(added_x, zero + 1, LAYER, 0), _whole(added_w, zero + 1, LAYER, 1)
    p, half_q = zero, zero
    of_first = 0  # what is added, times the first operands; not among what follows
    x_pair_ptr = x_products_ptr + layer * (LAYER.X_COUNT * (LAYER.X_COUNT + 1) // 2 * LAYER.BATCH) + row
    for i in tl.static_range(X_COUNT):
        dots = (0, 0)
        for k in tl.static_range(i + 1):
            product = tl.load(x_pair_ptr, mask=row < LAYER.BATCH, other=0.0)[:, None]
            dots = _add_vector(dots, of_x, product, k)
            x_pair_ptr += LAYER.BATCH
        if LAYER.HAS_RESIDUAL and i == 0:
            of_first = dots[1]
        p, half_q = _add_operand(p, half_q, added_x, of_x, dots, i)
    w_pair_ptr = w_products_ptr + layer * (LAYER.W_COUNT * (LAYER.W_COUNT + 1) // 2 * LAYER.WIDTH) + column
    for j in tl.static_range(W_COUNT):
        dots = (0, 0)
        for i in tl.static_range(X_COUNT):
            product = _product_of_pair(products, tile, LAYER, i, j)
            dots = _add_vector(dots, of_x, product, i)
            if LAYER.HAS_RESIDUAL and j == 0:
                of_first = _add_product(of_first, added_x[0][i], product)
        for k in tl.static_range(j + 1):
            product = tl.load(w_pair_ptr, mask=column < LAYER.WIDTH, other=0.0)[None, :]
            dots = _add_vector(dots, of_w, product, k)
            if LAYER.HAS_RESIDUAL and j == 0:
                of_first = _add_product(of_first, added_w[0][k], product)
            w_pair_ptr += LAYER.WIDTH
        p, half_q = _add_operand(p, half_q, added_w, of_w, dots, j)
    if LAYER.HAS_RESIDUAL:
        p = p + of_first
    return p, 2 * half_q


@triton.jit
def _product_of_pair(products, tile, LAYER: tl.constexpr, K: tl.constexpr, J: tl.constexpr):
    """Of operands ``K`` of ``x`` and ``J`` of ``w``, of blocks, or of those that a pointer points to."""
    if isinstance(products, tl.tensor):
        _, joined_place, inside = _entries(tile, LAYER)
        layer_ptr = products + tile[0] * (LAYER.X_COUNT * LAYER.W_COUNT * LAYER.BATCH * LAYER.WIDTH)
        pair_ptr = layer_ptr + (K * (LAYER.BATCH * LAYER.W_COUNT * LAYER.WIDTH) + J * LAYER.WIDTH)
        product = tl.load(pair_ptr + joined_place, mask=inside, other=0.0)
    else:
        product = products[K * triton.next_power_of_2(LAYER.W_COUNT) + J]
    return product


@triton.jit
def _add_vector(dots, coefficients, product, K: tl.constexpr):
    """To the products of u and v with a vector those of their ``K``th, whose ``product`` with it this is."""
    u, v = coefficients
    return _add_product(dots[0], u[K], product), _add_product(dots[1], v[K], product)


@triton.jit
def _add_operand(p, half_q, added, coefficients, dots, K: tl.constexpr):
    """With what operand ``K`` has of u and v, or adds to the first ones, whose products with it these are."""
    p = _add_product(_add_product(p, dots[0], added[1][K]), dots[1], added[0][K])
    u, v = coefficients
    return p, _add_product(_add_product(half_q, dots[0], u[K]), dots[1], v[K])


@triton.jit
def _add_product(total, a, b):
    """``total + a b``, where each may be the number 0."""
    if isinstance(a, tl.tensor) and isinstance(b, tl.tensor):
        found = a * b
        if isinstance(total, tl.tensor):
            found += total
    else:
        found = total
    return found


@triton.jit
def _solve_tile(inputs, products, outputs, tile, LAYER: tl.constexpr):
    """Writes all that follows from the inner products of a tile."""
    coefficients_ptr, known_ptr = inputs[2], inputs[3]
    layer, row_block, column_block, row, column = tile
    place, _, inside = _entries(tile, LAYER)
    of_x = _coefficients(coefficients_ptr, tile, LAYER, 0, LAYER.X_COUNT)
    of_w = _coefficients(coefficients_ptr, tile, LAYER, LAYER.X_COUNT, LAYER.W_COUNT)
    p, q = _inner_products(inputs, products, of_x, of_w, tile, LAYER)

    layer_place = layer * (LAYER.BATCH * LAYER.WIDTH) + place
    known = tl.load(known_ptr + layer_place, mask=inside, other=0.0)
    p, q = tl.where(inside, p, 0.0), tl.where(inside, q, 0.0)  # or the sums would count what is outside
    z, residual = known, None
    if LAYER.HAS_RESIDUAL:
        residual = known - p
        p += _product_of_pair(products, tile, LAYER, 0, 0)
        z = p + residual
    t, beta, gamma, radius = root_triton.bilinear_root(p, q, z, residual, 0.25, 3, UNROLLED=False)
    tl.store(outputs[0] + layer_place, -t, mask=inside)

    # By way of u + v and u - v nothing cancels; by its factors one at a time, no square of a coefficient overflows.
    plus, _, minus, _ = root_triton.squares(p, q)
    of_sum, of_difference = gamma + beta, gamma - beta
    kept = 2 * (of_sum * (of_sum * plus) + of_difference * (of_difference * minus))
    row_blocks, column_blocks = tl.cdiv(LAYER.BATCH, row.shape[0]), tl.cdiv(LAYER.WIDTH, column.shape[0])
    square_ptr = outputs[7] + 2 * ((layer * row_blocks + row_block) * column_blocks + column_block)
    tl.store(square_ptr, tl.sum(tl.sum(kept, axis=1), axis=0))
    tl.store(square_ptr + 1, tl.sum(tl.sum((1 + t * t) * (radius * radius), axis=1), axis=0))
    _store_changes(coefficients_ptr, outputs, gamma, beta, tile, LAYER)


@triton.jit
def _store_changes(coefficients_ptr, outputs, gamma, beta, tile, LAYER: tl.constexpr):
    """Those of coefficients, read again, now from a cache: they would not all fit the registers beside the root."""
    X_COUNT: tl.constexpr = LAYER.X_COUNT
    W_COUNT: tl.constexpr = LAYER.W_COUNT
    _, u_x_ptr, v_x_ptr, u_w_ptr, v_w_ptr, x_sums_ptr, w_sums_ptr, _ = outputs
    layer, row_block, column_block, row, column = tile
    place, joined_place, inside = _entries(tile, LAYER)
    row_blocks, column_blocks = tl.cdiv(LAYER.BATCH, row.shape[0]), tl.cdiv(LAYER.WIDTH, column.shape[0])
    one = tl.full(gamma.shape, 1, gamma.dtype)
    of_x = _whole(_coefficients(coefficients_ptr, tile, LAYER, 0, LAYER.X_COUNT), one, LAYER, 0)
    x_place = layer * (LAYER.X_COUNT * LAYER.BATCH * LAYER.WIDTH) + place
    u_ptr, v_ptr = u_x_ptr + x_place, v_x_ptr + x_place
    sum_ptr = x_sums_ptr + (layer * column_blocks + column_block) * (LAYER.X_COUNT * LAYER.BATCH) + row
    for k in tl.static_range(X_COUNT):
        u_change, _ = _store_change(u_ptr, v_ptr, gamma, beta, of_x, k, inside)
        tl.store(sum_ptr, tl.sum(u_change, axis=1), mask=row < LAYER.BATCH)
        u_ptr, v_ptr = u_ptr + LAYER.BATCH * LAYER.WIDTH, v_ptr + LAYER.BATCH * LAYER.WIDTH
        sum_ptr += LAYER.BATCH
    of_w = _whole(_coefficients(coefficients_ptr, tile, LAYER, LAYER.X_COUNT, LAYER.W_COUNT), one, LAYER, 1)
    w_place = layer * (LAYER.W_COUNT * LAYER.BATCH * LAYER.WIDTH) + joined_place
    u_ptr, v_ptr = u_w_ptr + w_place, v_w_ptr + w_place
    sum_ptr = w_sums_ptr + (layer * row_blocks + row_block) * (LAYER.W_COUNT * LAYER.WIDTH) + column
    for k in tl.static_range(W_COUNT):
        _, v_change = _store_change(u_ptr, v_ptr, gamma, beta, of_w, k, inside)
        tl.store(sum_ptr, tl.sum(v_change, axis=0), mask=column < LAYER.WIDTH)
        u_ptr, v_ptr = u_ptr + LAYER.WIDTH, v_ptr + LAYER.WIDTH
        sum_ptr += LAYER.WIDTH


@triton.jit
def _store_change(u_ptr, v_ptr, gamma, beta, coefficients, K: tl.constexpr, inside):
    """The changes of operand ``K``'s coefficients, which are written."""
    u, v = coefficients
    u_change, v_change = _mixed(gamma, u[K], beta, v[K]), _mixed(gamma, v[K], beta, u[K])
    tl.store(u_ptr, u_change, mask=inside)
    tl.store(v_ptr, v_change, mask=inside)
    return u_change, v_change


@triton.jit
def _mixed(gamma, own, beta, other):
    """``gamma own + beta other``, where these may be the number 0."""
    change = _add_product(tl.zeros_like(gamma), gamma, own)
    return _add_product(change, beta, other)
