import pytest
import torch
from safetensors.torch import load_file

from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.toyworld.faces import ToyFaceEngine
from idanim.toyworld.make_weights import STAGES, Plan, Workshop
from idanim.toyworld.stages import gates
from idanim.toyworld.weights import load_action_reader, load_reader


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("toy"), Plan().shortened(num_steps=1, num_people=12))
    STAGES["write"](made)
    return made


def test_every_stage_runs_and_its_weights_load(workshop: Workshop) -> None:
    folder = workshop.output
    backbone = AnimateDiffBackbone.from_pretrained(str(folder / "backbone"))
    clip = backbone.decode_video(torch.zeros(1, 24, 8, 8, 8))
    assert clip.shape == (1, 8, 3, 32, 32)
    encoder = ClipFaceEncoder.from_pretrained(str(folder / "image_encoder"))
    assert encoder.encode(clip[:, :1]).shape == (1, 1, 65, 128)
    ToyFaceEngine(folder / "faces", "a")
    ToyFaceEngine(folder / "faces", "b")
    load_reader(folder)
    load_action_reader(folder)
    assert "image_proj_model.latents" in load_file(folder / "adapter.safetensors")


def test_the_weights_are_small(workshop: Workshop) -> None:
    size = sum(path.stat().st_size for path in workshop.output.rglob("*") if path.is_file())
    assert size < 40e6


def test_the_gates_are_measured_and_drawn(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "NUM_STEPS", 2)  # of weights that learnt for one step nothing shows anyway
    STAGES["gates"](workshop)
    assert (workshop.folder / "grid.png").stat().st_size > 1000
