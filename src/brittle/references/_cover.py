"""The smallest vertex cover of a graph, bracketed: which examples a classifier must give up so that no conflict is left."""

from math import ceil

import numpy as np
from scipy.sparse import csr_matrix  # this helper is imported only by functions that need it

PROGRAMME = 20_000  # conflicts up to which an integer programme is tried: seconds (measured), folklore as a border


def vertex_cover(graph: csr_matrix, nodes: int) -> tuple[int, np.ndarray]:
    """A proved lower end of the size of the smallest vertex cover of a symmetric graph, and a cover (V,) bool.

    Bipartite components are exact: their smallest cover is as large as their largest matching (König). In the others the
    half-integral linear programme, which is a matching of the double graph, settles every vertex of value 0 or 1 (Nemhauser
    and Trotter); what stays at 1/2 is asked again, and at last given to :func:`_irreducible`.
    """
    chosen = np.zeros(_shape(graph)[0], dtype=bool)
    if not graph.nnz:
        return 0, chosen
    sides, odd = _two_colours(graph)
    rows, columns = (np.flatnonzero(side) for side in sides)
    left, right = _koenig(csr_matrix(graph[rows][:, columns]))
    chosen[rows[left]], chosen[columns[right]] = True, True
    lower = int(chosen.sum())
    if not len(odd):
        return lower, chosen
    part = csr_matrix(graph[odd][:, odd])
    left, right = _koenig(part)
    chosen[odd[left & right]] = True
    lower += int((left & right).sum())
    kernel = odd[left ^ right]
    inside = csr_matrix(graph[kernel][:, kernel])
    least, cover = (vertex_cover if len(kernel) < len(odd) else _irreducible)(inside, nodes)
    chosen[kernel[cover]] = True
    return lower + least, chosen


def _two_colours(graph: csr_matrix) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Both sides (V,) bool of all bipartite components that have an edge, and the vertices of components with an odd cycle."""
    from scipy.sparse.csgraph import connected_components

    _, component = connected_components(graph, directed=False)
    colour = np.full(_shape(graph)[0], -1)
    frontier, step = np.unique(component, return_index=True)[1], 0
    while len(frontier):
        colour[frontier] = step % 2
        reached = np.unique(graph[frontier].indices)
        frontier, step = reached[colour[reached] < 0], step + 1
    degree = np.diff(graph.indptr)
    source = np.repeat(np.arange(_shape(graph)[0]), degree)
    odd = np.isin(component, component[source[colour[source] == colour[graph.indices]]])
    even = ~odd & (degree > 0)
    return (even & (colour == 0), even & (colour == 1)), np.flatnonzero(odd)


def _koenig(graph: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """The smallest cover of a bipartite graph, rows and columns: what alternating paths from free rows do and do not reach."""
    from scipy.sparse.csgraph import maximum_bipartite_matching

    reached_rows, reached = (np.zeros(k, dtype=bool) for k in _shape(graph))
    if not graph.nnz:
        return reached_rows, reached
    partner = maximum_bipartite_matching(graph, perm_type="column")  # the column of each row, or -1
    owner = np.full(_shape(graph)[1], -1)
    owner[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
    frontier = np.flatnonzero(partner < 0)
    while len(frontier):
        reached_rows[frontier] = True
        columns = np.unique(graph[frontier].indices)
        columns = columns[~reached[columns]]
        reached[columns] = True
        frontier = owner[columns]  # never -1: that would be an augmenting path
    return ~reached_rows, reached


def _irreducible(graph: csr_matrix, nodes: int) -> tuple[int, np.ndarray]:
    """A graph whose linear programme is 1/2 everywhere: an integer programme where it is small; else disjoint cliques below,
    each of which needs all but one of its vertices, and above the vertices of most conflicts, one after another."""
    from scipy.sparse.csgraph import connected_components

    count, component = connected_components(graph, directed=False)
    lower, chosen = 0, np.zeros(_shape(graph)[0], dtype=bool)
    for k in range(count):
        at = np.flatnonzero(component == k)
        part = csr_matrix(graph[at][:, at])
        dense = part.toarray().astype(bool)
        least, cover = max(ceil(len(at) / 2), _cliques(dense)), _greedy(dense)
        if least < cover.sum() and part.nnz <= 2 * PROGRAMME:
            least, cover = _programme(part, nodes, least, cover)
        lower, chosen[at] = lower + least, cover
    return lower, chosen


def _cliques(conflict: np.ndarray) -> int:
    """A lower end: the sum of (size - 1) over disjoint cliques, grown one after another from the vertices of fewest conflicts."""
    free, total = np.ones(len(conflict), dtype=bool), 0
    degree = conflict.sum(1)
    for v in np.argsort(degree, kind="stable"):
        if not free[v]:
            continue
        free[v] = False
        common = conflict[v] & free
        while common.any():
            u = int(np.where(common, degree, len(conflict) + 1).argmin())
            free[u] = False
            common &= conflict[u] & free
            total += 1
    return total


def _greedy(conflict: np.ndarray) -> np.ndarray:
    """A cover (V,) bool: always the vertex of most conflicts left, then without those that the others make unnecessary."""
    left, cover = conflict.sum(1), np.zeros(len(conflict), dtype=bool)
    while left.max(initial=0) > 0:
        v = int(left.argmax())
        cover[v] = True
        left -= conflict[v]
        left[v] = 0
    for v in np.flatnonzero(cover):
        cover[v] = bool((conflict[v] & ~cover).any())
    return cover


def _programme(graph: csr_matrix, nodes: int, least: int, cover: np.ndarray) -> tuple[int, np.ndarray]:
    """HiGHS on ``min sum z, z_i + z_j >= 1, z in {0, 1}``; after ``nodes`` nodes whatever it knows by then."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    i, j = graph.nonzero()
    i, j = i[i < j], j[i < j]
    at = np.arange(len(i))
    rows = csr_matrix((np.ones(2 * len(i)), (np.r_[at, at], np.r_[i, j])), shape=(len(i), _shape(graph)[0]))
    found = milp(
        np.ones(_shape(graph)[0]),
        integrality=np.ones(_shape(graph)[0]),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, lb=1),
        options={"node_limit": nodes},
    )
    if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
        least = max(least, ceil(found.mip_dual_bound - 1e-3))  # sizes are whole; HiGHS works to 1e-6
    if found.x is not None and (found.x > 0.5).sum() < cover.sum():
        better = found.x > 0.5
        cover = better if not (~better[i] & ~better[j]).any() else cover
    return least, cover


def _shape(graph: csr_matrix) -> tuple[int, int]:
    """Rows and columns; scipy's own type does not promise a shape."""
    assert graph.shape is not None
    return graph.shape
