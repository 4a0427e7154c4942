from __future__ import annotations

import pytest
import torch

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.face_id import ArcFaceEncoder, ClipArcFaceEncoder, face_id_adapter
from idanim.models.recogniser import FaceRecogniser
from idanim.models.tiny import tiny_backbone, tiny_encoder
from idanim.toyworld.shipped import shipped


@pytest.fixture(scope="module")
def arcface() -> ArcFaceEncoder:
    return ArcFaceEncoder(FaceRecogniser(shipped("faces/recogniser_a.onnx")))


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


def test_vectors_are_the_recognisers(arcface: ArcFaceEncoder) -> None:
    references = torch.rand(2, 3, 3, 112, 112) * 2 - 1
    features = arcface.encode(references)
    assert features.shape == (2, 3, 1, arcface.feature_dim)
    torch.testing.assert_close(features[1, 2, 0], arcface.recogniser(references[1, 2][None])[0])
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 3, 1))
    assert not arcface.null_features().any()


def test_vector_stands_beside_each_clip_token(arcface: ArcFaceEncoder) -> None:
    clip = tiny_encoder(image_size=32)
    assert isinstance(clip, ClipFaceEncoder)
    both = ClipArcFaceEncoder(clip, arcface)
    references = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    features = both.encode(references)
    tokens = clip.encode(references)
    assert features.shape == (*tokens.shape[:3], both.feature_dim)
    torch.testing.assert_close(features[..., arcface.feature_dim :], tokens)
    vectors = features[..., : arcface.feature_dim]
    torch.testing.assert_close(vectors, vectors[:, :, :1].expand_as(vectors))
    assert both.null_features().shape == (1, 1, tokens.shape[2], both.feature_dim)
    assert not both.null_features()[..., : arcface.feature_dim].any()


def test_adapter_attends_to_the_vector(arcface: ArcFaceEncoder, backbone: AnimateDiffBackbone) -> None:
    torch.manual_seed(0)
    adapter = face_id_adapter(backbone, arcface.feature_dim, num_queries=4, hidden_dim=32)
    adapter.attach(backbone)
    text, latents = backbone.encode_text([""]), torch.randn(1, 4, 2, 8, 8)
    answers = []
    for picture in (torch.full((1, 1, 3, 112, 112), -0.5), torch.rand(1, 1, 3, 112, 112)):
        tokens = adapter.id_tokens(arcface.encode(picture))
        assert tokens.shape[:2] == (1, 4)
        answers.append(backbone.predict(latents, torch.tensor([500]), torch.cat([text, tokens], 1)))
    backbone.set_processors(None)
    assert not torch.allclose(answers[0], answers[1], atol=1e-4)


def test_weights_survive_a_file_of_the_ip_adapter_family(
    arcface: ArcFaceEncoder, backbone: AnimateDiffBackbone, tmp_path
) -> None:
    adapter = face_id_adapter(backbone, arcface.feature_dim, num_queries=4, hidden_dim=32)
    adapter.to_file(tmp_path / "portrait.bin", "ip_adapter")
    again = FaceAdapter.from_file(tmp_path / "portrait.bin", backbone)
    for key, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    started = face_id_adapter(backbone, arcface.feature_dim, 4, 32, init=str(tmp_path / "portrait.bin"))
    assert torch.equal(started.state_dict()["image_proj_model.proj.0.weight"], adapter.image_proj_model.proj[0].weight)
