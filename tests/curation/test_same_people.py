"""Who is who: clustering of vectors, source videos, and what the names are used for."""

import dataclasses
import json

import numpy as np
import pytest
from square_faces import curate, person, write_mp4
from test_inputs import metas

from idanim.curation.link import Linker
from idanim.curation.people import FaceClusters, GivenNames, SeenPerson, cluster
from idanim.curation.results import ClipEntry
from idanim.types import IdanimError


def unit(*vectors):
    array = np.array(vectors, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def people(num_people, num_clips, noise, seed=0):
    """Vectors around one centre a person, and the person of each."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(num_people), num_clips)
    centres = unit(*rng.normal(size=(num_people, 64)))
    return unit(*(centres[who] + rng.normal(size=(len(who), 64)) * noise / 8)), who


def seen(vectors, sources=None):
    return [
        SeenPerson(f"clip{i:04d}", f"name{i}", sources[i] if sources else "film", vector)
        for i, vector in enumerate(vectors)
    ]


class TestClustering:
    def test_people_are_told_apart(self):
        vectors, who = people(40, 5, noise=0.6)
        labels = cluster(vectors, 0.5)
        np.testing.assert_array_equal(labels[:, None] == labels, who[:, None] == who)

    def test_a_chain_does_not_join_what_is_unlike(self):
        angles = np.radians([0, 50, 100])
        vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        labels = cluster(vectors, 0.6)  # cos 50° is 0.64: each like its neighbour
        assert len(set(labels)) == 2
        assert labels[0] != labels[2]

    def test_blocks_make_no_difference(self, monkeypatch):
        vectors, _ = people(30, 4, noise=0.9, seed=1)
        whole = cluster(vectors, 0.4)
        monkeypatch.setattr("idanim.curation.people.BLOCK", 7)
        np.testing.assert_array_equal(cluster(vectors, 0.4), whole)

    def test_one_clip(self):
        assert cluster(unit([1.0, 2.0]), 0.5).tolist() == [0]

    def test_names_do_not_depend_on_order(self):
        vectors, _ = people(6, 3, noise=0.3)
        clusters = FaceClusters(0.5, within_source=False)
        names = clusters.names(seen(vectors))
        assert clusters.names(seen(vectors)[::-1]) == names
        assert set(names.values()) == {min(f"name{3 * i + j}" for j in range(3)) for i in range(6)}

    def test_only_clips_of_one_source_are_joined(self):
        vectors = unit([1, 0], [1, 0.1], [1, 0.2], [0, 1])
        names = FaceClusters(0.5, within_source=True).names(seen(vectors, ["a", "a", "b", "a"]))
        assert [names[f"clip000{i}"] for i in range(4)] == ["name0", "name0", "name2", "name3"]

    def test_the_commonest_given_name_stays_unless_others_have_it_too(self):
        vectors = unit([1, 0, 0], [1, 0.1, 0], [1, 0.2, 0], [0, 1, 0], [0, 0, 1])
        clusters = FaceClusters(0.5, within_source=False)
        given = ["zoe", "anna", "anna", "bob", "bob"]
        found = clusters.names(
            [dataclasses.replace(p, identity=name) for p, name in zip(seen(vectors), given, strict=True)]
        )
        assert [found[f"clip000{i}"] for i in range(5)] == ["anna", "anna", "anna", "clip0003", "clip0004"]

    def test_given_names(self):
        assert GivenNames().names(seen(unit([1, 0], [0, 1]))) == {"clip0000": "name0", "clip0001": "name1"}

    def test_a_threshold_that_makes_no_sense(self):
        with pytest.raises(IdanimError, match=r"identify\.min_similarity"):
            FaceClusters(1.5, within_source=False)


def test_faces_too_like_or_too_unlike_are_not_linked():
    angles = {"a": [0, 0], "b": [5, 40, 60, 120], "c": [0, 180]}
    entries = []
    for key, degrees in angles.items():
        radians = np.radians(degrees)
        vectors = np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float16)
        entries.append(ClipEntry(key, "anna", 100, dict.fromkeys(range(len(degrees)), 10), vectors))
    assert Linker(20, 0.2, 0.9, 0.5, 0).choose(entries)["a"] == [("b", (1, 2))]
    assert Linker(20, 0.2, 1.0, 0.5, 0).choose(entries)["a"] == [("b", (0, 1, 2)), ("c", (0,))]
    without = [dataclasses.replace(entry, vectors=None) for entry in entries]
    assert Linker(20, 0.2, 0.9, 0.5, 0).choose(without)["a"] == [("b", (0, 1, 2, 3)), ("c", (0, 1))]


def test_people_found_by_their_faces_are_linked_and_never_in_both_splits(tmp_path):
    names = ("one", "two", "three", "four", "five", "six")
    for i, name in enumerate(names):
        write_mp4(tmp_path / "in" / f"{name}.mp4", person(40 + i, colour=("red", "green", "blue")[i % 3]))
    output = curate(tmp_path / "in", tmp_path / "out", "identify=faces", "shards.val_fraction=0.4")
    found = metas(output)
    for i, name in enumerate(names):
        partner = names[(i + 3) % 6]
        assert found[name].identity == found[partner].identity
        assert {face.clip for face in found[name].faces} == {name, partner}
    rows = [json.loads(line) for line in (output / "annotations.jsonl").read_text().splitlines()]
    assert {row["key"]: row["identity"] for row in rows} == {key: meta.identity for key, meta in found.items()}
    splits = {}
    for row in rows:
        splits.setdefault(row["identity"], set()).add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    again = metas(curate(tmp_path / "in", output, "identify=given", "shards.val_fraction=0.4"))
    assert {key: meta.identity for key, meta in again.items()} == {name: name for name in names}


@pytest.mark.parametrize("bounds", [(-1, -1.0, 1.0), (5, 0.9, 0.2)])
def test_bounds_between_which_nothing_lies_are_refused(bounds):
    with pytest.raises(IdanimError, match=r"link\.min_similarity"):
        Linker(*bounds, 0.5, 0)
