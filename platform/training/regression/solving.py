"""Linear algebra that all processors do alike, bit for bit.

Silos must compute the same model from the same total, so that libraries are out of the question
whose order of additions depends on the processor. Here are only operations that IEEE 754 defines,
element by element, and sums that are rounded once (`math.fsum`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]

LEAST_PIVOT = 1e-11
"""1 - R^2 of a column on those before it, below which it counts as a combination of them. Features
are float32, so that the same quantity in two units leaves about 1e-14."""

MOST_SWEEPS = 16
_SMALL = 1e-15


def dot(a: Reals, b: Reals) -> float:
    """Return a scalar product, rounded once."""
    return math.fsum((a * b).tolist())


def product(matrix: Reals, vector: Reals) -> Reals:
    """Return a matrix times a vector."""
    found = np.zeros(len(matrix))
    for column, factor in zip(matrix.T, vector, strict=True):
        found += column * factor
    return found


def packed(matrix: Reals) -> Reals:
    """Return the upper triangle of a symmetric matrix, row by row, [p (p + 1) / 2]."""
    return matrix[np.triu_indices(len(matrix))]


def unpacked(triangle: Reals, size: int) -> Reals:
    """Return the symmetric matrix of an upper triangle, [size, size]."""
    found = np.zeros((size, size))
    found[np.triu_indices(size)] = triangle
    return np.where(np.tri(size, k=-1, dtype=np.bool_), found.T, found)


def solve(matrix: Reals, right: Reals) -> tuple[Reals, Chosen]:
    """Solve a positive semidefinite system by elimination (Golub and Van Loan, 2013, 4.1.2), after
    scaling its diagonal to 1.

    Returns:
        The solution, zero for each column that is a combination of those before it, as in R; and
        which columns are not.
    """
    size, diagonal = len(matrix), np.diag(matrix)
    kept = diagonal > 0
    scale = 1 / np.sqrt(np.where(kept, diagonal, 1.0))
    rest, right = matrix * scale[:, None] * scale, right * scale
    for j in range(size):
        if not (kept[j] and rest[j, j] >= LEAST_PIVOT):
            kept[j], rest[j, :], rest[:, j] = False, 0.0, 0.0
            continue
        below = rest[j + 1 :, j] / rest[j, j]
        right[j + 1 :] -= below * right[j]
        rest[j + 1 :, j + 1 :] -= below[:, None] * rest[j, j + 1 :]
    found = np.zeros(size)
    for j in np.flatnonzero(kept)[::-1]:
        found[j] = right[j] / rest[j, j]
        right[:j] -= rest[:j, j] * found[j]
    return found * scale, kept


def eigen(matrix: Reals) -> tuple[Reals, Reals]:
    """Return the eigenvalues of a symmetric matrix, [p], in no order, and its eigenvectors as
    columns, [p, p].

    Jacobi's method with half of all pairs at a time (Golub and Van Loan, 2013, 8.5.6).
    """
    size = len(matrix)
    even = size + size % 2
    rest, vectors = np.zeros((even, even)), np.eye(even)
    rest[:size, :size] = matrix
    least = _SMALL * float(np.abs(rest).max(initial=0.0))
    order = np.arange(even)
    for _ in range(MOST_SWEEPS):
        if float(np.abs(rest[~np.eye(even, dtype=np.bool_)]).max(initial=0.0)) <= least:
            break
        for _ in range(even - 1):
            _rotate(rest, vectors, order[: even // 2], order[: even // 2 - 1 : -1])
            order = np.concatenate([order[:1], order[-1:], order[1:-1]])
    return np.diag(rest)[:size].copy(), vectors[:size, :size]


def _rotate(
    rest: Reals, vectors: Reals, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> None:
    """Make the entries of pairs zero, in place."""
    off = rest[first, second]
    some = off != 0.0
    with np.errstate(over="ignore"):  # next to no rotation
        tau = (rest[second, second] - rest[first, first]) / np.where(some, 2 * off, 1.0)
        root = np.abs(tau) + np.sqrt(1 + tau * tau)
    tangent = np.where(some, np.where(tau < 0, -1.0, 1.0) / root, 0.0)
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    sine = tangent * cosine
    for array in (rest.T, rest, vectors):  # first the rows, then the columns
        _mix(array, first, second, cosine, sine)


def _mix(
    array: Reals,
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
    cosine: Reals,
    sine: Reals,
) -> None:
    """Rotate pairs of an array's columns, in place."""
    a, b = array[:, first], array[:, second]
    array[:, first], array[:, second] = cosine * a - sine * b, sine * a + cosine * b
