"""Projection of a dense layer in factored form on a GPU: inner products, roots, changes of coefficients in one kernel.

Where ``precision`` allows tensor cores, the kernel multiplies all pairs of operands itself: the products of a tile stay
in registers until the coefficients combine them, and never reach memory.  Otherwise XLA's product of all joined
operands comes first, as full float32 runs on no tensor core.  Every coefficient is read for ``p`` and ``q``, a second
time, from a cache, to be changed, and its change is written once.  The products that make the means are XLA's.  Under
:func:`jax.vmap`, several layers are one launch.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, compress

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array, lax

from pjax_kernels import blocks, gpu, root_triton
from pjax_kernels.combination import Coefficient, Combination, FactoredChanges
from pjax_kernels.dense.triton import product_on_tensor_cores


def factored_increments(
    x: Sequence[Array],
    w: Sequence[Array],
    u: Combination,
    v: Combination,
    z: Array,
    *,
    precision: lax.PrecisionLike,
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    several = [*u.x, *u.w, *v.x, *v.w]
    # The numbers 0 and 1 cost nothing in the kernel, others are arrays.
    ones = [isinstance(c, float) and c == 1 for c in several]
    zeros = [isinstance(c, float) and c == 0 for c in several]
    is_array = [not (one or zero) for one, zero in zip(ones, zeros, strict=True)]
    arrays = [jnp.broadcast_to(jnp.asarray(c, z.dtype), z.shape) for c in compress(several, is_array)]

    def project(*layers: Array) -> tuple[Array, ...]:
        rest = iter(layers)
        rows, columns, coefficients = ([next(rest) for _ in group] for group in (x, w, arrays))
        return _project_layers(rows, columns, coefficients, next(rest), _bits(ones), _bits(is_array), precision)

    found = gpu.over_leading_axis(project)(*(array[None] for array in (*x, *w, *arrays, z)))
    u_x, v_x, u_w, v_w, x_mean, w_mean, z_change, squared = (array[0] for array in found)
    moves = [not (of_u and of_v) for of_u, of_v in zip(zeros[: len(x) + len(w)], zeros[len(x) + len(w) :], strict=True)]

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
    z: Array,
    ones: int,
    arrays: int,
    precision: lax.PrecisionLike,
) -> tuple[Array, ...]:
    """Of layers along the first axis.

    ``ones`` and ``arrays`` are bits for the coefficients of u and then of v, each for ``x`` and then ``w``.  Returns
    the changes of u and v, of those for ``x`` (L, I, B, M) and then of those for ``w`` (L, B, J, M), the means of ``x``
    and ``w``, the change of ``z``, and the sums of squares (L, 2) of what is kept and of what is left out.
    """
    (layers, batch, width), length = z.shape, x[0].shape[2]
    # Joined so that each sum of products, here and of the changes, is one product.
    rows, columns = jnp.concatenate(x, axis=1), jnp.concatenate(w, axis=2)
    product = product_on_tensor_cores(precision, z)
    kernel = "factored" if product else "factored, XLA's products"
    shape = layers, batch, length, width, len(x) * len(w)
    sizes = blocks.find(kernel, shape, product or z.dtype.name)
    row_blocks, column_blocks = triton.cdiv(batch, sizes["ROWS"]), triton.cdiv(width, sizes["COLUMNS"])
    inputs = (
        jnp.stack([jnp.sum(a * b, axis=2) for a, b in combinations_with_replacement(x, 2)], axis=1),
        jnp.stack([jnp.sum(a * b, axis=1) for a, b in combinations_with_replacement(w, 2)], axis=1),
        jnp.stack(coefficients, axis=1) if coefficients else z,
        z,
    )
    of_x, of_w = (layers, len(x), batch, width), (layers, batch, len(w), width)
    sums = (layers, column_blocks, len(x), batch), (layers, row_blocks, len(w), width)
    shapes = z.shape, of_x, of_x, of_w, of_w, *sums, (layers, row_blocks * column_blocks, 2)
    common = sizes | {
        "outputs": [(shape, z.dtype) for shape in shapes],
        "grid": (row_blocks * column_blocks, layers),
        "BATCH": batch,
        "WIDTH": width,
        "X_COUNT": len(x),
        "W_COUNT": len(w),
        "ONES": ones,
        "ARRAYS": arrays,
    }
    if product is None:
        found = gpu.launch(_solve, *inputs, jnp.matmul(rows, columns, precision=precision), **common)
    else:
        found = gpu.launch(_multiply_and_solve, *inputs, rows, columns, LENGTH=length, PRECISION=product, **common)
    z_change, u_x, v_x, u_w, v_w, x_sums, w_sums, squared = found

    x_sums, w_sums = jnp.sum(x_sums, axis=1), jnp.sum(w_sums, axis=1)
    x_sum = jnp.matmul(u_w.reshape(layers, batch, len(w) * width), columns.mT, precision=precision)
    w_sum = jnp.matmul(rows.mT, v_x.reshape(layers, len(x) * batch, width), precision=precision)
    x_sum = x_sum + sum(x_sums[:, k, :, None] * array for k, array in enumerate(x))
    w_sum = w_sum + sum(w_sums[:, k, None] * array for k, array in enumerate(w))
    means = x_sum / max(width, 1), w_sum / max(batch, 1)
    return u_x, v_x, u_w, v_w, *means, z_change, jnp.sum(squared, axis=1)


@triton.jit
def _multiply_and_solve(
    x_products_ptr,
    w_products_ptr,
    coefficients_ptr,
    z_ptr,
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
    BATCH: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    X_COUNT: tl.constexpr,
    W_COUNT: tl.constexpr,
    ONES: tl.constexpr,
    ARRAYS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    layer, row_block, column_block, row, column, place, inside = _place(BATCH, WIDTH, ROWS, COLUMNS)
    # One product of all operands' rows and all operands' columns of this tile, as if they were neighbours.
    x_blocks: tl.constexpr = triton.next_power_of_2(X_COUNT)
    w_blocks: tl.constexpr = triton.next_power_of_2(W_COUNT)
    some_row, some_column = tl.arange(0, x_blocks * ROWS), tl.arange(0, w_blocks * COLUMNS)
    x_row, w_column = row_block * ROWS + some_row % ROWS, column_block * COLUMNS + some_column % COLUMNS
    is_row = (some_row // ROWS < X_COUNT) & (x_row < BATCH)
    is_column = (some_column // COLUMNS < W_COUNT) & (w_column < WIDTH)
    x_row_ptr = x_ptr + ((layer * X_COUNT + some_row // ROWS) * BATCH + x_row)[:, None] * LENGTH
    w_column_ptr = (
        w_ptr + layer * (LENGTH * W_COUNT * WIDTH) + (some_column.to(tl.int64) // COLUMNS * WIDTH + w_column)[None, :]
    )
    joined = tl.zeros((x_blocks * ROWS, w_blocks * COLUMNS), tl.float32)
    for first in range(0, LENGTH, INNER):
        entry = first + tl.arange(0, INNER)
        x = tl.load(x_row_ptr + entry[None, :], mask=is_row[:, None] & (entry < LENGTH)[None, :], other=0.0)
        w_entry_ptr = w_column_ptr + entry.to(tl.int64)[:, None] * (W_COUNT * WIDTH)
        w = tl.load(w_entry_ptr, mask=(entry < LENGTH)[:, None] & is_column[None, :], other=0.0)
        joined = tl.dot(x, w, joined, input_precision=PRECISION)
    pairs = tl.permute(tl.reshape(joined, (x_blocks, ROWS, w_blocks, COLUMNS)), (1, 3, 0, 2))
    products = _parts(tl.reshape(pairs, (ROWS, COLUMNS, x_blocks * w_blocks)), x_blocks * w_blocks)

    coefficients_ptr += layer * (_number_before(ARRAYS, 64) * BATCH * WIDTH)
    u_x, v_x = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, 0, X_COUNT
    )
    u_w, v_w = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, X_COUNT, W_COUNT
    )
    p, q = _own_inner_products(
        x_products_ptr, w_products_ptr, u_x, u_w, v_x, v_w, layer, row, column, BATCH, WIDTH, X_COUNT, W_COUNT
    )
    for i in tl.static_range(X_COUNT):
        for j in tl.static_range(W_COUNT):
            p, q = _add_pair(p, q, u_x[i], u_w[j], v_x[i], v_w[j], products[i * w_blocks + j])
    _solve_tile(
        p,
        q,
        z_ptr,
        coefficients_ptr,
        z_change_ptr,
        u_x_ptr,
        v_x_ptr,
        u_w_ptr,
        v_w_ptr,
        x_sums_ptr,
        w_sums_ptr,
        squares_ptr,
        layer,
        row_block,
        column_block,
        row,
        column,
        place,
        inside,
        BATCH,
        WIDTH,
        X_COUNT,
        W_COUNT,
        ONES,
        ARRAYS,
    )


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
    z_ptr,
    products_ptr,
    z_change_ptr,
    u_x_ptr,
    v_x_ptr,
    u_w_ptr,
    v_w_ptr,
    x_sums_ptr,
    w_sums_ptr,
    squares_ptr,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    X_COUNT: tl.constexpr,
    W_COUNT: tl.constexpr,
    ONES: tl.constexpr,
    ARRAYS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    layer, row_block, column_block, row, column, place, inside = _place(BATCH, WIDTH, ROWS, COLUMNS)
    coefficients_ptr += layer * (_number_before(ARRAYS, 64) * BATCH * WIDTH)
    u_x, v_x = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, 0, X_COUNT
    )
    u_w, v_w = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, X_COUNT, W_COUNT
    )
    p, q = _own_inner_products(
        x_products_ptr, w_products_ptr, u_x, u_w, v_x, v_w, layer, row, column, BATCH, WIDTH, X_COUNT, W_COUNT
    )
    products_ptr += layer * (X_COUNT * W_COUNT * BATCH * WIDTH)
    joined_place = row.to(tl.int64)[:, None] * (W_COUNT * WIDTH) + column[None, :]
    for i in tl.static_range(X_COUNT):
        for j in tl.static_range(W_COUNT):
            pair_ptr = products_ptr + (i * (BATCH * W_COUNT * WIDTH) + j * WIDTH)
            product = tl.load(pair_ptr + joined_place, mask=inside, other=0.0)
            p, q = _add_pair(p, q, u_x[i], u_w[j], v_x[i], v_w[j], product)
    _solve_tile(
        p,
        q,
        z_ptr,
        coefficients_ptr,
        z_change_ptr,
        u_x_ptr,
        v_x_ptr,
        u_w_ptr,
        v_w_ptr,
        x_sums_ptr,
        w_sums_ptr,
        squares_ptr,
        layer,
        row_block,
        column_block,
        row,
        column,
        place,
        inside,
        BATCH,
        WIDTH,
        X_COUNT,
        W_COUNT,
        ONES,
        ARRAYS,
    )


@triton.jit
def _place(BATCH: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The layer, the tile of this program, its rows and columns, and its places among a layer's ``BATCH * WIDTH``.

    Neighbours in time share operands in the L2 cache.
    """
    row_blocks, column_blocks = tl.cdiv(BATCH, ROWS), tl.cdiv(WIDTH, COLUMNS)
    place = tl.program_id(0)
    row_block, column_block = tl.swizzle2d(place // column_blocks, place % column_blocks, row_blocks, column_blocks, 8)
    row, column = row_block * ROWS + tl.arange(0, ROWS), column_block * COLUMNS + tl.arange(0, COLUMNS)
    place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    inside = (row < BATCH)[:, None] & (column < WIDTH)[None, :]
    return tl.program_id(1).to(tl.int64), row_block, column_block, row, column, place, inside


@triton.jit
def _coefficients(
    coefficients_ptr,
    place,
    inside,
    SIZE: tl.constexpr,
    OPERANDS: tl.constexpr,
    ONES: tl.constexpr,
    ARRAYS: tl.constexpr,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Those of u and those of v for ``COUNT`` of the ``OPERANDS`` from the ``FIRST``, at a layer's pointer."""
    u, v = (), ()
    for k in tl.static_range(FIRST, FIRST + COUNT):
        u = u + (_coefficient(coefficients_ptr, place, inside, SIZE, ONES, ARRAYS, k),)
        v = v + (_coefficient(coefficients_ptr, place, inside, SIZE, ONES, ARRAYS, OPERANDS + k),)
    return u, v


@triton.jit
def _coefficient(
    coefficients_ptr,
    place,
    inside,
    SIZE: tl.constexpr,
    ONES: tl.constexpr,
    ARRAYS: tl.constexpr,
    NUMBER: tl.constexpr,
):
    """A block, or the number 0."""
    if (ARRAYS >> NUMBER) & 1:
        array_ptr = coefficients_ptr + _number_before(ARRAYS, NUMBER) * SIZE
        found = tl.load(array_ptr + place, mask=inside, other=0.0)
    elif (ONES >> NUMBER) & 1:
        found = tl.full(inside.shape, 1, coefficients_ptr.dtype.element_ty)
    else:
        found: tl.constexpr = 0
    return found


@triton.constexpr_function
def _number_before(bits, place):
    """How many of the lowest ``place`` bits are set."""
    return (bits & ((1 << place) - 1)).bit_count()


@triton.jit
def _own_inner_products(
    x_products_ptr,
    w_products_ptr,
    u_x,
    u_w,
    v_x,
    v_w,
    layer,
    row,
    column,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    X_COUNT: tl.constexpr,
    W_COUNT: tl.constexpr,
):
    """What pairs of ``x`` and pairs of ``w`` add to ``p = u . v`` and ``q = |u|^2 + |v|^2``."""
    dtype: tl.constexpr = x_products_ptr.dtype.element_ty
    p, q = tl.zeros((row.shape[0], column.shape[0]), dtype), tl.zeros((row.shape[0], column.shape[0]), dtype)
    x_pair_ptr = x_products_ptr + layer * (X_COUNT * (X_COUNT + 1) // 2 * BATCH) + row
    for i in tl.static_range(X_COUNT):
        for j in tl.static_range(i, X_COUNT):
            product = tl.load(x_pair_ptr, mask=row < BATCH, other=0.0)[:, None]
            p, q = _add_own(p, q, u_x[i], u_x[j], v_x[i], v_x[j], product, i == j)
            x_pair_ptr += BATCH
    w_pair_ptr = w_products_ptr + layer * (W_COUNT * (W_COUNT + 1) // 2 * WIDTH) + column
    for i in tl.static_range(W_COUNT):
        for j in tl.static_range(i, W_COUNT):
            product = tl.load(w_pair_ptr, mask=column < WIDTH, other=0.0)[None, :]
            p, q = _add_own(p, q, u_w[i], u_w[j], v_w[i], v_w[j], product, i == j)
            w_pair_ptr += WIDTH
    return p, q


@triton.jit
def _add_own(p, q, u, other_u, v, other_v, product, SAME: tl.constexpr):
    """With the products of two vectors of one operand, in both orders, or of one with itself."""
    p = _add_product(p, u, other_v, product)
    if not SAME:
        p = _add_product(p, other_u, v, product)
        product = 2 * product
    return p, _add_product(_add_product(q, u, other_u, product), v, other_v, product)


@triton.jit
def _add_pair(p, q, u_x, u_w, v_x, v_w, product):
    """With the product of a vector of ``x`` and one of ``w``, in both orders."""
    p = _add_product(_add_product(p, u_x, v_w, product), u_w, v_x, product)
    product = 2 * product
    return p, _add_product(_add_product(q, u_x, u_w, product), v_x, v_w, product)


@triton.jit
def _add_product(total, a, b, product):
    """``total + a b product``, where ``a`` and ``b`` may be the number 0."""
    if isinstance(a, tl.tensor) and isinstance(b, tl.tensor):
        total += a * b * product
    return total


@triton.jit
def _solve_tile(
    p,
    q,
    z_ptr,
    coefficients_ptr,
    z_change_ptr,
    u_x_ptr,
    v_x_ptr,
    u_w_ptr,
    v_w_ptr,
    x_sums_ptr,
    w_sums_ptr,
    squares_ptr,
    layer,
    row_block,
    column_block,
    row,
    column,
    place,
    inside,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    X_COUNT: tl.constexpr,
    W_COUNT: tl.constexpr,
    ONES: tl.constexpr,
    ARRAYS: tl.constexpr,
):
    """Writes all that follows from the inner products of a tile."""
    row_blocks: tl.constexpr = tl.cdiv(BATCH, row.shape[0])
    column_blocks: tl.constexpr = tl.cdiv(WIDTH, column.shape[0])

    layer_place = layer * (BATCH * WIDTH) + place
    z = tl.load(z_ptr + layer_place, mask=inside, other=0.0)
    p, q = tl.where(inside, p, 0.0), tl.where(inside, q, 0.0)  # or the sums would count what is outside
    t, beta, gamma, radius = root_triton.bilinear_root(p, q, z, 0.25, 3)
    tl.store(z_change_ptr + layer_place, -t, mask=inside)

    # By way of u + v and u - v nothing cancels; by its factors one at a time, no square of a coefficient overflows.
    plus, _, minus, _ = root_triton.squares(p, q)
    of_sum, of_difference = gamma + beta, gamma - beta
    kept = 2 * (of_sum * (of_sum * plus) + of_difference * (of_difference * minus))
    square_ptr = squares_ptr + 2 * ((layer * row_blocks + row_block) * column_blocks + column_block)
    tl.store(square_ptr, tl.sum(tl.sum(kept, axis=1), axis=0))
    tl.store(square_ptr + 1, tl.sum(tl.sum((1 + t * t) * (radius * radius), axis=1), axis=0))

    # Read again, now from a cache: they would not all fit the registers beside the root.
    u_x, v_x = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, 0, X_COUNT
    )
    for k in tl.static_range(X_COUNT):
        u_change, v_change = _mixed(gamma, u_x[k], beta, v_x[k]), _mixed(gamma, v_x[k], beta, u_x[k])
        array = (layer * X_COUNT + k) * (BATCH * WIDTH)
        tl.store(u_x_ptr + array + place, u_change, mask=inside)
        tl.store(v_x_ptr + array + place, v_change, mask=inside)
        sum_offset = ((layer * column_blocks + column_block) * X_COUNT + k) * BATCH + row
        tl.store(x_sums_ptr + sum_offset, tl.sum(u_change, axis=1), mask=row < BATCH)
    u_w, v_w = _coefficients(
        coefficients_ptr, place, inside, BATCH * WIDTH, X_COUNT + W_COUNT, ONES, ARRAYS, X_COUNT, W_COUNT
    )
    joined_place = row.to(tl.int64)[:, None] * (W_COUNT * WIDTH) + column[None, :]
    for k in tl.static_range(W_COUNT):
        u_change, v_change = _mixed(gamma, u_w[k], beta, v_w[k]), _mixed(gamma, v_w[k], beta, u_w[k])
        array = layer * (W_COUNT * BATCH * WIDTH) + k * WIDTH
        tl.store(u_w_ptr + array + joined_place, u_change, mask=inside)
        tl.store(v_w_ptr + array + joined_place, v_change, mask=inside)
        sum_offset = ((layer * row_blocks + row_block) * W_COUNT + k) * WIDTH + column
        tl.store(w_sums_ptr + sum_offset, tl.sum(v_change, axis=0), mask=column < WIDTH)


@triton.jit
def _mixed(gamma, own, beta, other):
    """``gamma own + beta other``, where these may be the number 0."""
    change = tl.zeros_like(gamma)
    if isinstance(own, tl.tensor):
        change += gamma * own
    if isinstance(other, tl.tensor):
        change += beta * other
    return change
