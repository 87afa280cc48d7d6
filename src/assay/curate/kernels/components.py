"""Connected components of a graph given by its edges."""

import numpy as np
from numpy.typing import NDArray


def components(edges: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nodes of ``edges`` [edges, 2], sorted, and for each the number of its component, from 0 in the order of the lowest node.

    Labels sink to the lowest neighbour and jump to their label's label until nothing moves: logarithmically many rounds.
    """
    if len(edges) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    nodes, flat = np.unique(edges, return_inverse=True)
    a, b = flat.reshape(edges.shape).T
    label = np.arange(len(nodes))
    while True:
        low = np.minimum(label[a], label[b])
        fresh = label.copy()
        np.minimum.at(fresh, label[a], low)
        np.minimum.at(fresh, label[b], low)
        while (jumped := fresh[fresh] != fresh).any():
            fresh = np.where(jumped, fresh[fresh], fresh)
        if (fresh == label).all():
            return nodes, np.unique(label, return_inverse=True)[1]
        label = fresh
