"""What the catalogue's table says of each kernel beside what is declared: its constraint, its arguments, its cost."""

from typing import NamedTuple


class Entry(NamedTuple):
    """In Markdown; costs in floating-point operations."""

    constraint: str
    arguments: str
    cost: str


ENTRIES = {
    "project_bilinear": Entry("`z = a . b`, copies stored", "`a`, `b` `(..., N)`, `z` `(...)`", "11 `N` + root, each"),
    "project_dense": Entry(
        "`z = x w`, means of the copies", "`x` `(B, N)`, `w` `(N, M)`, `z` `(B, M)`", "6 `B N M` + `B M` roots"
    ),
    "project_dense_copies": Entry(
        "`z = x w`, a deviation stored for every copy", "those, `u`, `v` `(B, M, N)`", "24 `B N M` + `B M` roots"
    ),
    "project_dense_factored": Entry(
        "`z = u . v`, combinations of `I` `x`, `J` `w`",
        "those, 2 (`I` + `J`) coefficients `(B, M)`",
        "2 (`I J` + `I` + `J`) `B N M` + `B M` roots",
    ),
    "project_conv2d": Entry(
        "`z = conv(x, w)`, means of the copies",
        "`x` `(B, H, W, C)`, `w` `(h, w, C, K)`, `z` `(B, H', W', K)`",
        "3 convolutions + roots",
    ),
    "project_recurrence": Entry(
        "`z = x w_x + h w_h`, all time steps, means of the copies",
        "`x` `(B, T, N)`, `h` `(B, T, H)`, `w_x` `(N, M)`, `w_h` `(H, M)`, `z` `(B, T, M)`",
        "6 `B T (N + H) M` + roots",
    ),
    "project_bilinear_map": Entry(
        "`z = F(x, w)`, any bilinear `F` that selects, means of the copies",
        "`F`, `x`, `w` pytrees, `z`",
        "7 `F` or transposes of it + roots",
    ),
    "project_bilinear_map_factored": Entry(
        "`z = u . v` for any such `F`, combinations of `I` `x`, `J` `w`",
        "those, 2 (`I` + `J`) coefficients like `z`",
        "`I J` + `I^2` + `J^2` + 2 (`I` + `J`) `F` or transposes + roots",
    ),
    "project_layer": Entry(
        "`Z = F(X, W)`, one copy of each array, in a metric",
        "`F`, `x`, `w` arrays or tuples, `z`",
        '"rank one": the products of back-propagation and two with one column; '
        "a step of conjugate gradients: 2 or 4 products",
    ),
    "project_affine": Entry(
        "`z = c x + d` for constants", "arrays of one shape, constants that broadcast", "6 an element"
    ),
    "project_sum": Entry(
        "`z = c_1 x_1 + ... + c_n x_n`; identity for n = 1", "arrays that broadcast to `z`", "n + 3 an element"
    ),
    "project_sum_over": Entry(
        "`z = c sum(x)` over axes, such as the mean", "`x`, `z` without these axes", "2 an entry"
    ),
    "project_sum_relu": Entry("`z = relu(x_1 + ... + x_n)`", "arrays that broadcast to `z`", "n + 10 an element"),
    "project_max": Entry(
        "`z = max(x)` over axes", "`x`, `z` without these axes", "about 8 Newton steps of 5, and 8, an entry"
    ),
    "project_max_pool": Entry(
        "`z` = maxima of windows, means of the copies",
        "`x` `(B, H, W, C)`, `z` `(B, H', W', C)`",
        "the same for each entry of each window",
    ),
    "project_min": Entry("`z = min(x)` over axes", "as for `project_max`", "as for `project_max`"),
    "project_average_pool": Entry(
        "`z` = means, or multiples of sums, of windows, means of the copies",
        "`x`, any number of axes, `z`",
        "4 for each entry of each window",
    ),
    "project_elementwise": Entry(
        "`z = f(x)`, `f` by name or any smooth function",
        "arrays of one shape",
        "near: about 4 evaluations of `f` and two derivatives; far: about 40",
    ),
    "project_normalize": Entry(
        "`z` = layer or RMS normalisation of `x`", "arrays of one shape", "20 an entry, about 1000 a row"
    ),
    "project_quantize": Entry(
        "`z` = the nearest of equally spaced levels",
        "arrays of one shape",
        "about 50 an element, for any number of levels",
    ),
    "project_threshold": Entry(
        "`z = sgn(a . b)`, `\\|a . b\\| >= margin`, copies stored",
        "`a`, `b` of one shape, `z` without their axis",
        "13 `N` + 2 roots, each",
    ),
    "project_threshold_dense": Entry(
        "the same for `x w`, means of the copies",
        "`x` `(B, N)`, `w` `(N, M)`, `z` `(B, M)`",
        "6 `B N M` + 2 `B M` roots",
    ),
    "project_margin": Entry("logit <= 0, or >= a positive label", "logits, labels of one shape", "3 an element"),
    "prox_cross_entropy": Entry(
        "proximal operator of softmax cross-entropy", "logits, labels `(..., C)`", "about 4 steps of 50 `C`"
    ),
    "prox_squared_error": Entry(
        "proximal operator of squared error", "prediction, target of one shape", "4 an element"
    ),
    "prox_absolute_error": Entry("proximal operator of absolute error", "those", "3 an element"),
    "project_box": Entry("low <= value <= high", "value, limits that broadcast", "5 an element"),
    "project_sphere": Entry("\\|value\\| = norm along axes", "any shape", "4 an element"),
    "project_levels": Entry("each element one of a few numbers", "any shape", "3 an element and level"),
    "project_sparse": Entry("at most `count` entries other than 0", "any shape", "64 an element"),
    "project_one_hot": Entry("one entry `high`, all others `low`", "any shape", "2 an element"),
    "project_simplex": Entry("value >= 0, sum = total", "any shape", "a sort"),
    "project_orthonormal": Entry("value^T value = 1", "`(..., N, M)`", "about 10 `N M^2`"),
}
"""In the order of the table."""

FORMS = ("means of the copies", "one copy of each array", "combinations of operands", "copies stored")
DOT_PRODUCTS = {
    "matrix product": ("project_dense", "project_layer", "project_dense_factored", "project_dense_copies"),
    "convolution": ("project_conv2d", "project_layer", "project_bilinear_map_factored", "project_bilinear"),
    "recurrence": ("project_recurrence", "project_layer", "project_bilinear_map_factored", "project_bilinear"),
    "any bilinear map": ("project_bilinear_map", "project_layer", "project_bilinear_map_factored", "project_bilinear"),
}
"""By the map, the kernel for each form of copies: its own, or one for all maps."""
