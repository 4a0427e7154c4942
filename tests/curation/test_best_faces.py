"""The face pool of the best faces: what makes a face good, and that the best of a stream are kept."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageFilter
from square_faces import person, write_mp4

from idanim.config import CONF_DIR
from idanim.curate import make_curator
from idanim.curation.face_pool import BestFaces, Cutout, FaceDraw
from idanim.curation.inputs import find_clips
from idanim.faces.align import ARCFACE_TEMPLATE
from idanim.types import Face

RNG = np.random.default_rng(0)  # not used: nothing is left to chance
PICTURE = np.random.default_rng(1).integers(0, 256, (448, 448, 3), dtype=np.uint8)


def cutout(frame=0, size=224, score=0.9, blur_px=0.0, nose_px=0.0):
    """A face of a size, from the front unless its nose is moved aside."""
    landmarks = ARCFACE_TEMPLATE * (size / 112)
    landmarks[2, 0] += nose_px * (size / 112)
    rgb = np.asarray(Image.fromarray(PICTURE[:size, :size]).filter(ImageFilter.GaussianBlur(blur_px)))
    return Cutout(frame, Face((0.0, 0.0, size, size), landmarks.astype(np.float32), score), rgb, 0, 0)


def number(**kinds):
    return BestFaces().number(cutout(**kinds), RNG)


@pytest.mark.parametrize("worse", [{"size": 64}, {"score": 0.6}, {"blur_px": 6.0}, {"nose_px": 9.0}, {"nose_px": -9.0}])
def test_large_sharp_certain_faces_from_the_front_are_better(worse):
    assert 0 <= number(**worse) < 0.9 * number()


def test_what_is_large_and_sharp_enough_does_not_get_better():
    assert number(size=448) == pytest.approx(number(size=300))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_of_a_stream_are_kept_whatever_the_order(seed):
    scores = np.linspace(0.3, 0.95, 12)
    order = np.random.default_rng(seed).permutation(12)
    draw = FaceDraw(4, BestFaces(), RNG)
    for i in order:
        draw.offer(cutout(frame=int(i), score=float(scores[i])))
    assert [kept.frame for kept in draw.drawn()] == [11, 10, 9, 8]


def test_of_equal_faces_the_earlier_are_kept():
    draw = FaceDraw(2, BestFaces(), RNG)
    for frame in range(5):
        draw.offer(cutout(frame=frame))
    assert [kept.frame for kept in draw.drawn()] == [0, 1]


def test_chosen_by_config_it_does_not_follow_the_seed(tmp_path):
    write_mp4(tmp_path / "a.mp4", person(40))
    (video,) = find_clips(tmp_path, None, keep_duplicates=False)
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "curate.yaml"))
    config["faces"] = {"_target_": "square_faces.SquareFaces"}
    config["clip"]["size"] = 32
    config["filter"] |= {"min_face_px": 12, "min_blur": 0}
    config["face_pool"]["choice"] = {"_target_": "idanim.curation.face_pool.BestFaces"}
    pools = []
    for seed in (0, 1):
        sample = make_curator(config | {"seed": seed}).curate(video)
        pools.append([face.frame for face in sample.meta.faces if face.role == "pool"])
    assert len(set(pools[0])) == 5
    assert pools[0] == pools[1]
