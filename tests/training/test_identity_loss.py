from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.backbone import Diffused
from idanim.models.recogniser import FaceRecogniser
from idanim.toyworld.make_videos import film
from idanim.toyworld.shipped import shipped
from idanim.training.identity_loss import IdentityLoss
from idanim.training.objective import draw

NUM_FRAMES = 4


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return AnimateDiffBackbone.from_pretrained(shipped("backbone"))


@pytest.fixture(scope="module")
def recogniser() -> FaceRecogniser:
    return FaceRecogniser(shipped("faces/recogniser_a.onnx"))


@pytest.fixture(scope="module")
def people(backbone: AnimateDiffBackbone) -> tuple[Tensor, Tensor]:
    """Latents [3, C, F, h, w] of three people, and their landmarks."""
    videos = film(3, clips_per_person=1, num_frames=NUM_FRAMES, size_px=32, seed=20000)
    pixels = torch.stack([torch.from_numpy(video.frames.copy()) for video in videos]).permute(0, 1, 4, 2, 3)
    landmarks = torch.stack([torch.tensor(video.facts["truth"]["landmarks_px"]) for video in videos])
    return backbone.encode_video(pixels / 127.5 - 1).mean, landmarks


def setting(backbone: AnimateDiffBackbone, latents: Tensor, uniform: float = 0.2) -> tuple[Diffused, Tensor, Tensor]:
    drawn = draw(torch.arange(len(latents)), latents.shape[1:])
    time = torch.full((len(latents),), uniform)
    return backbone.diffuse(latents, drawn.noise, time), time, drawn.frame_order


def prediction_of(backbone: AnimateDiffBackbone, diffused: Diffused, clean: Tensor) -> Tensor:
    """The velocity that amounts to `clean`."""
    share = diffused.signal_share.view(-1, 1, 1, 1, 1)
    return (share.sqrt() * diffused.latents - clean) / (1 - share).sqrt()


def test_right_prediction_costs_nothing(backbone, recogniser, people) -> None:
    latents, landmarks = people
    diffused, time, order = setting(backbone, latents)
    loss = IdentityLoss(recogniser)(backbone, diffused, diffused.target, latents, landmarks, time, order)
    assert float(loss) == pytest.approx(0, abs=1e-4)


def test_another_person_costs_weight_times_share_times_distance(backbone, recogniser, people) -> None:
    latents, landmarks = people
    diffused, time, order = setting(backbone, latents)
    wrong = latents.roll(1, 0)
    prediction = prediction_of(backbone, diffused, wrong)
    loss = IdentityLoss(recogniser, weight=0.5, num_frames=2)(
        backbone, diffused, prediction, latents, landmarks, time, order
    )
    distances = []
    for clip in range(3):
        for frame in order[clip, :2]:
            pictures = [backbone.decode_video(x[[clip], :, frame][:, :, None])[:, 0] for x in (wrong, latents)]
            found, true = (recogniser.embed_at(picture, landmarks[[clip], frame]) for picture in pictures)
            distances.append(1 - float((found * true).sum()))
    share = float(diffused.signal_share[0])
    assert float(loss) == pytest.approx(0.5 * share * sum(distances) / len(distances), rel=1e-3)
    assert float(loss) > 0.1


def test_frames_without_a_face_and_late_times_do_not_count(backbone, recogniser, people) -> None:
    latents, landmarks = people
    diffused, time, order = setting(backbone, latents)
    prediction = prediction_of(backbone, diffused, latents.roll(1, 0)).requires_grad_()
    loss = IdentityLoss(recogniser, num_frames=NUM_FRAMES)
    nobody = torch.full_like(landmarks, float("nan"))
    nothing = loss(backbone, diffused, prediction, latents, nobody, time, order)
    nothing.backward()  # a step without a face must not stop training
    assert nothing.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()
    late = IdentityLoss(recogniser, max_time=0.1)
    assert late(backbone, diffused, prediction, latents, landmarks, time, order).item() == 0
    only_first = torch.where(torch.arange(3).view(3, 1, 1, 1) == 0, landmarks, nobody)
    alone = [part[:1] for part in (prediction, latents, landmarks, time, order)]
    first = loss(backbone, Diffused(*(part[:1] for part in diffused)), *alone)
    torch.testing.assert_close(loss(backbone, diffused, prediction, latents, only_first, time, order), first)


def test_gradient_makes_the_face_more_alike(backbone, recogniser, people) -> None:
    latents, landmarks = people
    diffused, time, order = setting(backbone, latents)
    loss = IdentityLoss(recogniser, weight=1.0)
    prediction = prediction_of(backbone, diffused, latents.roll(1, 0)).requires_grad_()
    before = loss(backbone, diffused, prediction, latents, landmarks, time, order)
    (gradient,) = torch.autograd.grad(before, prediction)
    after = loss(backbone, diffused, prediction - 0.1 * gradient.sign(), latents, landmarks, time, order)
    assert after.item() < 0.95 * before.item()
