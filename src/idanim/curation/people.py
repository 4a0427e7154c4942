"""Who is who: which clips show one person. Links between clips and the split into train and val go by these names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from idanim.curation.results import Result
from idanim.curation.sources import SourceVideo
from idanim.faces.engine import unit_vector
from idanim.types import FloatArray, IdanimError

BLOCK = 2048
"""Clips compared at a time; bounds the memory."""


@dataclass(frozen=True)
class SeenPerson:
    """The person of one clip.

    Attributes:
        key: clip key.
        identity: the name given to the person.
        source: the video that the clip is a part of.
        vector: mean of the recognition vectors of the clip's faces, [D] float32 of unit length.
    """

    key: str
    identity: str
    source: str
    vector: FloatArray


class People(Protocol):
    """Names the persons of all clips."""

    def names(self, seen: Sequence[SeenPerson]) -> dict[str, str]:
        """The person's name by clip key; clips of one name show one person."""
        ...


class GivenNames:
    """The names that lists, sidecars and file names give."""

    def names(self, seen: Sequence[SeenPerson]) -> dict[str, str]:
        """The given names."""
        return {person.key: person.identity for person in seen}


@dataclass(frozen=True)
class FaceClusters:
    """Clips whose faces are alike show one person: agglomerative clustering with average linkage.

    A cluster has the name that most of its clips were given, if no other cluster's clips were given it; else it is
    named after its first clip.

    Attributes:
        min_similarity: two clusters are joined while the mean cosine between their clips is at least this.
        within_source: whether only clips of one source video are compared; then nobody is taken for somebody else who
            looks alike in another video, as in OpenS2V and Phantom-Data.
    """

    min_similarity: float
    within_source: bool

    def __post_init__(self) -> None:
        if not 0 < self.min_similarity < 1:
            raise IdanimError(f"identify.min_similarity={self.min_similarity}: wanted a cosine between 0 and 1")

    def names(self, seen: Sequence[SeenPerson]) -> dict[str, str]:
        """Names of clusters."""
        groups: dict[str, list[SeenPerson]] = defaultdict(list)
        for person in sorted(seen, key=lambda person: person.key):
            groups[person.source if self.within_source else ""].append(person)
        clusters: list[list[SeenPerson]] = []
        for group in groups.values():
            labels = cluster(np.stack([person.vector for person in group]), self.min_similarity)
            members: dict[int, list[SeenPerson]] = defaultdict(list)
            for person, label in zip(group, labels.tolist(), strict=True):
                members[label].append(person)
            clusters += members.values()
        in_clusters = Counter(name for people in clusters for name in {person.identity for person in people})
        names: dict[str, str] = {}
        for people in clusters:
            given = Counter(person.identity for person in people)
            commonest = min(given, key=lambda name: (-given[name], name))
            name = commonest if in_clusters[commonest] == 1 else people[0].key
            names |= {person.key: name for person in people}
        return names


def cluster(vectors: FloatArray, min_similarity: float) -> npt.NDArray[np.int64]:
    """Average linkage over cosines, cut at `min_similarity`.

    Clips that no chain of similarities at or above it connects can't be joined, so the chains are followed first (in
    blocks) and linkage is done in each of their groups alone: memory grows with the square of the largest group only.

    Args:
        vectors: [N, D] of unit length.
        min_similarity: cosine.

    Returns:
        [N] label of the cluster.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import squareform

    rows: list[npt.NDArray[np.intp]] = []
    columns: list[npt.NDArray[np.intp]] = []
    for start in range(0, len(vectors), BLOCK):
        i, j = np.nonzero(vectors[start : start + BLOCK] @ vectors.T >= min_similarity)
        rows.append(i + start)
        columns.append(j)
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = csr_array((np.ones(len(edges[0]), bool), edges), shape=(len(vectors),) * 2)
    num_groups, groups = connected_components(graph, directed=False)
    labels = groups.astype(np.int64)
    next_label = num_groups
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(groups))[:-1]):
        if len(members) > 2:  # two that are connected are one cluster
            distances = np.clip(1.0 - vectors[members] @ vectors[members].T, 0.0, None).astype(np.float64)
            np.fill_diagonal(distances, 0.0)
            tree = linkage(squareform(distances, checks=False), method="average")
            labels[members] = next_label + fcluster(tree, 1.0 - min_similarity, criterion="distance")
            next_label += len(members) + 1
    return labels


def name_people(accepted: Iterable[Result], videos: Iterable[SourceVideo], people: People) -> list[Result]:
    """Accepted clips with the names of their persons.

    Args:
        accepted: results of the accepted videos.
        videos: all videos; they tell which ones are parts of one source.
        people: gives the names.
    """
    sources: Mapping[str, str] = {video.key: video.source_id or video.name for video in videos}
    results = list(accepted)
    seen = [_seen(result, sources[result.decision.key]) for result in results]
    names = people.names(seen)
    return [replace(result, person=names[result.decision.key]) for result in results]


def _seen(result: Result, source: str) -> SeenPerson:
    meta = result.meta()
    mean = np.mean([face.embedding for face in meta.faces], axis=0, dtype=np.float64)
    return SeenPerson(meta.key, meta.identity, source, unit_vector(mean))
