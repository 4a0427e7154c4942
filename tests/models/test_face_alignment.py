import torch

from idanim.faces.align import aligned_crop
from idanim.models.face_alignment import ARCFACE_TEMPLATE, crop_faces, fit_similarity
from idanim.toyworld.people import sample_identities, sample_scene
from idanim.toyworld.renderer import locate, render


def test_a_known_similarity_is_found() -> None:
    angle, scale, shift = torch.tensor(0.3), 1.7, torch.tensor([4.0, -2.0])
    rotation = scale * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    source = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    matrix = fit_similarity(source, source @ rotation.T + shift)
    torch.testing.assert_close(matrix[:, :, :2], rotation.expand(3, 2, 2))
    torch.testing.assert_close(matrix[:, :, 2], shift.expand(3, 2))


def test_landmarks_on_the_template_leave_the_picture_as_it_is() -> None:
    picture = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    crop = crop_faces(picture, ARCFACE_TEMPLATE[None], 112)
    torch.testing.assert_close(crop, picture, atol=1e-3, rtol=0)


def test_agrees_with_the_crop_for_single_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = sample_scene(sample_identities(4, generator), 1, generator)
    frames = render(scene, 64)[:, 0]
    _, landmarks = locate(scene.identity, scene.pose[:, 0], 64)
    crops = (crop_faces(frames.float() / 127.5 - 1, landmarks, 112) + 1) * 127.5
    for frame, points, crop in zip(frames, landmarks, crops, strict=True):
        single = aligned_crop(frame.permute(1, 2, 0).numpy(), points.numpy(), 112)
        difference = crop.permute(1, 2, 0) - torch.from_numpy(single).float()
        assert difference.abs().mean() < 5  # bilinear against bicubic
