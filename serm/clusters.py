"""Clusters of texts that mean the like: k-means over an encoder's unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans


def cluster(vectors: NDArray[np.float32], a_cluster: int, seed: int) -> NDArray[np.int64]:
    """Return the number of each vector's cluster [n], from 0; about ``a_cluster`` vectors share one.

    Args:
        vectors: unit vectors [n, dim], n > 0.
        a_cluster: how many vectors a cluster has on average.
        seed: of the first means.
    """
    count = max(1, round(len(vectors) / a_cluster))
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=max(256, 4 * count))
    labels: NDArray[np.int64] = means.fit_predict(vectors).astype(np.int64)
    return labels
