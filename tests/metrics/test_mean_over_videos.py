import copy

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from idanim.metrics.face_track import FaceTrack
from idanim.metrics.identity import detected_face_similarity, face_similarity
from idanim.metrics.mean_over_videos import MeanOverVideos


def videos(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        found = rng.random(4) < 0.5
        vectors = rng.normal(size=(int(found.sum()), 8)) if found.any() else np.zeros((0, 0))
        yield FaceTrack(found, vectors.astype(np.float32))


REFERENCE = np.eye(8, dtype=np.float32)[:1]


def test_matches_the_mean_of_the_function():
    mean = MeanOverVideos(face_similarity)
    for video in videos(7):
        mean.update(video, REFERENCE)
    assert mean.compute().item() == pytest.approx(np.mean([face_similarity(v, REFERENCE) for v in videos(7)]))
    mean.reset()
    assert mean.count == 0


def test_undefined_values_do_not_count():
    values = [detected_face_similarity(v, REFERENCE) for v in videos(30)]
    assert None in values
    mean = MeanOverVideos(detected_face_similarity)
    for video in videos(30):
        mean.update(video, REFERENCE)
    assert mean.compute().item() == pytest.approx(np.mean([v for v in values if v is not None]))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_no_number():
    assert torch.isnan(MeanOverVideos(face_similarity).compute())


def test_unequal_parts_are_merged_by_sums():
    whole = MeanOverVideos(face_similarity)
    parts = [copy.deepcopy(whole) for _ in range(3)]
    for i, video in enumerate(videos(7)):
        whole.update(video, REFERENCE)
        parts[0 if i < 5 else 1].update(video, REFERENCE)  # the third process sees nothing
    parts[0].merge_state(parts[1])
    parts[0].merge_state(parts[2])
    assert parts[0].compute().item() == pytest.approx(whole.compute().item(), abs=1e-12)


def _process(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mean = MeanOverVideos(face_similarity)
    for i, video in enumerate(videos(7)):
        if (i < 5) == (rank == 0):
            mean.update(video, REFERENCE)
    (folder / f"{rank}.txt").write_text(str(mean.compute().item()))
    distributed.destroy_process_group()


def test_two_processes_agree_on_the_mean_of_all_videos(tmp_path):
    multiprocessing.start_processes(_process, (tmp_path,), nprocs=2, start_method="fork")
    expected = np.mean([face_similarity(v, REFERENCE) for v in videos(7)])
    assert [float((tmp_path / f"{rank}.txt").read_text()) for rank in (0, 1)] == pytest.approx([expected] * 2)
