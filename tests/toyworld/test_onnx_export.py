from pathlib import Path

import numpy as np
import pytest
import torch

from idanim.toyworld.networks import RECOGNISER_WIDTHS, Recogniser

pytest.importorskip("onnx")
model_zoo = pytest.importorskip("insightface.model_zoo")


def test_insightface_loads_the_export_and_embeds_alike(tmp_path: Path) -> None:
    from idanim.toyworld.onnx_export import export_recogniser

    torch.manual_seed(0)
    recogniser = Recogniser(RECOGNISER_WIDTHS["a"])
    recogniser(torch.randn(16, 3, 112, 112))  # moves the running statistics off their start
    recogniser.eval()
    export_recogniser(recogniser, tmp_path / "toy.onnx")
    loaded = model_zoo.get_model(str(tmp_path / "toy.onnx"), providers=["CPUExecutionProvider"])
    assert type(loaded).__name__ == "ArcFaceONNX"
    assert loaded.input_size == (112, 112)
    bgr = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = recogniser((rgb - 127.5) / 127.5)[0].numpy()
    np.testing.assert_allclose(loaded.get_feat(bgr)[0], expected, atol=2e-4)
