"""Starting an adapter from a file of other sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idanim.models.adapter import FaceAdapter
from idanim.models.checkpoint import write_adapter
from idanim.models.face_id import face_id_adapter
from idanim.models.tiny import tiny_backbone
from idanim.types import IdanimError

BACKBONE = tiny_backbone()
SIZES = {"depth": 1, "dim_head": 8, "heads": 2}


def adapter(num_queries: int = 4, feature_dim: int = 24, **changes) -> FaceAdapter:
    return FaceAdapter(BACKBONE, feature_dim, num_queries, **SIZES, **changes)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    trained = adapter()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("adapters") / "trained.safetensors"
    write_adapter(path, trained.state_dict(), {})
    return str(path)


def tokens(of: FaceAdapter, features: torch.Tensor) -> torch.Tensor:
    return of.id_tokens(features)


def test_fewer_queries_are_the_first_ones_of_the_file(file: str) -> None:
    full, few = adapter(init=file), adapter(num_queries=2, init=file, resize_init=True)
    latents = full.image_proj_model.latents
    torch.testing.assert_close(few.image_proj_model.latents, latents[:, :2])
    kept = {k: v for k, v in full.state_dict().items() if not k.endswith("latents")}
    assert all(torch.equal(few.state_dict()[key], value) for key, value in kept.items())


def test_more_queries_are_those_of_the_file_and_fresh_ones(file: str) -> None:
    full = adapter(init=file)
    torch.manual_seed(7)
    fresh = adapter(num_queries=6).image_proj_model.latents
    torch.manual_seed(7)
    many = adapter(num_queries=6, init=file, resize_init=True).image_proj_model.latents
    torch.testing.assert_close(many[:, :4], full.image_proj_model.latents)
    torch.testing.assert_close(many[:, 4:], fresh[:, 4:])


def test_a_vector_in_front_of_the_tokens_changes_nothing_at_first(file: str) -> None:
    plain, wide = adapter(init=file), adapter(feature_dim=24 + 10, init=file, resize_init=True)
    features = torch.randn(2, 1, 5, 24)
    joined = torch.cat([torch.randn(2, 1, 5, 10), features], -1)
    torch.testing.assert_close(tokens(wide, joined), tokens(plain, features))


def test_other_sizes_are_an_error_unless_asked_for(file: str) -> None:
    with pytest.raises(IdanimError, match="latents"):
        adapter(num_queries=2, init=file)
    with pytest.raises(IdanimError, match="does not fit"):
        FaceAdapter(BACKBONE, 24, 2, depth=2, dim_head=8, heads=2, init=file, resize_init=True)


def test_attention_alone_is_taken(file: str) -> None:
    full = adapter(init=file).state_dict()
    face_id = face_id_adapter(BACKBONE, feature_dim=12, hidden_dim=8, init_attention=file).state_dict()
    taken = [key for key in face_id if key.startswith("adapter_modules.")]
    assert taken
    assert all(torch.equal(face_id[key], full[key]) for key in taken)


def test_fresh_attention_is_not_the_texts() -> None:
    layer = BACKBONE.cross_attention_layers()[0]
    key, _ = BACKBONE.text_projections(layer)
    copied, fresh = adapter(), adapter(fresh_attention=True)
    own = [a.adapter_modules[str(layer.number)].to_k_face.weight for a in (copied, fresh)]
    assert torch.equal(own[0], key)
    assert not torch.allclose(own[1], key)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match="nowhere"):
        adapter(init_attention=str(tmp_path / "nowhere.safetensors"))
