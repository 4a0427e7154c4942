"""Who is who on labelled real clips and photos: the person is the file name's part before `__`."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from idanim.curation.people import FaceClusters, SeenPerson
from idanim.video import decode

pytest.importorskip("insightface")
pytestmark = pytest.mark.real_input


def pictures(path):
    if path.suffix in (".mp4", ".mpg"):
        return [rgb for _, rgb in decode(path, [0, 30])]
    return [np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))]


@pytest.fixture(scope="module")
def seen(real_dir):
    from idanim.faces.insightface_engine import InsightFaceEngine

    engine = InsightFaceEngine("yunet_mobilefacenet", str(real_dir / "models/insightface"))
    people = []
    for path in sorted([*real_dir.glob("clips/person_*"), *real_dir.glob("photos/person_*")]):
        vectors = [engine.embed(rgb, engine.detect(rgb)[0]) for rgb in pictures(path)]
        mean = np.mean(vectors, axis=0)
        key = f"{path.parent.name}/{path.name}"
        people.append(SeenPerson(key, path.name.partition("__")[0], key, mean / np.linalg.norm(mean)))
    return people


@pytest.mark.parametrize("min_similarity", [0.3, 0.4, 0.45])
def test_links_are_precise_and_nearly_complete(seen, min_similarity):
    names = FaceClusters(min_similarity, within_source=False).names(seen)
    pairs = list(itertools.combinations(seen, 2))
    linked = np.array([names[a.key] == names[b.key] for a, b in pairs])
    same = np.array([a.identity == b.identity for a, b in pairs])
    assert same.sum() >= 40
    assert (linked & same).sum() / linked.sum() == 1.0  # precision
    assert (linked & same).sum() / same.sum() >= 0.9  # recall
    assert len({Path(person.key).parent for person in seen}) == 2
