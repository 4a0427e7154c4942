"""FaceID adapters from files of others run on the toy world, with its own recogniser as their ArcFace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_people import TOY_BACKBONE, take_photos

from idanim.assembly import load_sampler, sampling_settings
from idanim.config import build
from idanim.models.adapter import FaceAdapter
from idanim.models.face_id import ArcFaceEncoder, ClipArcFaceEncoder, face_id_adapter
from idanim.models.projections import FaceIdPlusProjection
from idanim.models.resampler import Resampler
from idanim.pictures import decode_picture
from idanim.types import IdanimError

SHORT = {"num_frames": 2, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("face_id")
    backbone = build(TOY_BACKBONE["model"])
    torch.manual_seed(0)
    portrait = face_id_adapter(backbone, 128, num_queries=4, hidden_dim=64)
    portrait.to_file(folder / "portrait.bin", "ip_adapter")
    width = backbone.cross_attention_layers()[0].context_dim
    encoder = build(TOY_BACKBONE["image_encoder"])
    inner = Resampler(encoder.feature_dim, width, 0, width, depth=1, dim_head=24, heads=4)
    plus = FaceAdapter(
        backbone, 0, 4, lora_rank=2, projection=FaceIdPlusProjection(128, 64, 4, inner), self_attention_lora=True
    )
    plus.to_file(folder / "plus.bin", "ip_adapter")
    return {"portrait": folder / "portrait.bin", "plus": folder / "plus.bin"}


@pytest.mark.parametrize(("name", "encoder"), [("portrait", ArcFaceEncoder), ("plus", ClipArcFaceEncoder)])
def test_who_is_shown_decides_the_video(tmp_path: Path, files: dict[str, Path], name: str, encoder: type) -> None:
    sampler, config = load_sampler(files[name], {}, "cpu", backbone=TOY_BACKBONE)
    assert isinstance(sampler.encoder, encoder)
    settings = sampling_settings(config, **SHORT)
    pictures = [decode_picture(path.read_bytes(), path.name) for path in take_photos(tmp_path, ["a.png", "b.png"])]
    first, second = (sampler.generate([picture], "a woman", 0, settings, "x").frames for picture in pictures)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, sampler.generate([pictures[0]], "a woman", 0, settings, "x").frames)


def test_only_the_encoders_that_the_file_takes_must_be_there(files: dict[str, Path]) -> None:
    no_clip = {**TOY_BACKBONE, "image_encoder": {**TOY_BACKBONE["image_encoder"], "path": "/no/clip"}}
    sampler, _ = load_sampler(files["portrait"], {}, "cpu", backbone=no_clip)
    assert isinstance(sampler.encoder, ArcFaceEncoder)
    with pytest.raises(IdanimError, match=r"encoder\.model\.path='/no/clip': there is no such file"):
        load_sampler(files["plus"], {}, "cpu", backbone=no_clip)
    for name in files:
        with pytest.raises(IdanimError, match=r"backbone\.recogniser='/no/r50\.onnx': there is no such file"):
            load_sampler(files[name], {}, "cpu", backbone={**TOY_BACKBONE, "recogniser": "/no/r50.onnx"})


def test_several_references_stand_side_by_side_and_do_not_disturb_others(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    sampler, _ = load_sampler(files["portrait"], {}, "cpu", backbone=TOY_BACKBONE)
    pictures = [decode_picture(path.read_bytes(), path.name) for path in take_photos(tmp_path, ["a.png", "b.png"])]
    alone, _ = sampler.guidance_contexts(pictures[:1], "a woman", "")
    both, _ = sampler.guidance_contexts(pictures, "a woman", "")
    assert both.shape[1] - alone.shape[1] == 4
    torch.testing.assert_close(both[:, : alone.shape[1]], alone)
    assert sampler.adapter.num_references == 2
    again, _ = sampler.guidance_contexts(pictures[:1], "a woman", "")
    assert sampler.adapter.num_references == 1
    torch.testing.assert_close(again, alone)
