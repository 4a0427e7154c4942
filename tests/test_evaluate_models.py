"""The evaluation program with CLIP and with another benchmark's protocol, on toy people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_clip import write_tiny_clip

from idanim.config import Run, replace_values, restore
from idanim.evaluation import evaluate
from idanim.toyworld.make_videos import film
from idanim.types import IdanimError
from idanim.video_encoding import encode_mp4


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos each of two people, and a video by each of two systems; "copy" repeats the first photo."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "photos").mkdir()
    films = film(2, clips_per_person=3, num_frames=4, size_px=48, seed=20_400)
    for i, name in enumerate(("ann", "bob")):
        first, second, third = (video.frames for video in films[3 * i : 3 * i + 3])
        for number, frames in enumerate((first, second)):
            Image.fromarray(frames[0]).save(folder / "photos" / f"{name}__{number}.png")
        for system, frames in (("alive", third), ("copy", np.repeat(first[:1], 4, 0))):
            path = folder / "videos" / f"{system}_{name}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_mp4(frames, 8))
            record = {"prompt": "a red hat", "identity": name, "system": system}
            path.with_suffix(".json").write_text(json.dumps(record))
    return folder


def score(toy: Path, output: Path, protocol: str = "idanim", **scoring: object) -> dict:
    config = restore("evaluate", {"choices": {"logger": "csv", "faces": "toy", "protocol": protocol}, "values": {}})
    values = {"videos": str(toy / "videos"), "references": str(toy / "photos"), "output": str(output)}
    replace_values(config, values | {"scoring": scoring})
    return evaluate(Run(config, output, {}, "abc"))


def test_every_metric_of_the_toy_world_is_there_by_default(toy, tmp_path):
    result = score(toy, tmp_path)
    alive = {name: figure["mean"] for name, figure in result["summary"].items()}
    missing = {name for name, mean in alive.items() if mean is None}
    wanting_a_model = ("text_alignment", "frame_consistency", "prompt_attributes", "prompt_action")
    assert missing == {f"{system}{name}" for system in ("", "copy/") for name in wanting_a_model}
    assert result["text_model"] is None
    assert alive["copy/copy_paste"] > alive["copy_paste"] + 0.5
    assert alive["copy/face_motion"] < 0.05 * alive["face_motion"]
    rows = {row["metric"]: row for row in result["differences"]}
    assert (rows["motion"]["system"], rows["motion"]["minus"], rows["motion"]["n"]) == ("alive", "copy", 2)
    assert rows["motion"]["mean"] == pytest.approx(alive["motion"] - alive["copy/motion"])
    assert "alive − copy" in (tmp_path / "report.md").read_text()


def test_clip_scores_and_is_named(toy, tmp_path):
    result = score(toy, tmp_path / "out", clip=str(write_tiny_clip(tmp_path / "my-clip")))
    assert result["text_model"].startswith("clip/my-clip-")
    assert -100 < result["summary"]["text_alignment"]["mean"] < 100
    assert result["summary"]["copy/frame_consistency"]["mean"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(IdanimError, match=r"scoring\.clip=.*no such folder"):
        score(toy, tmp_path / "again", clip="/nowhere")


@pytest.mark.parametrize(("protocol", "figure"), [("consisid", "face_sim_arc"), ("opens2v", "motion_amplitude")])
def test_protocols_stand_beside_our_own_figures_with_their_flaws(toy, tmp_path, capsys, protocol, figure):
    result = score(toy, tmp_path, protocol)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    theirs = result["protocol"]
    assert theirs["name"] == protocol
    assert theirs["figures"]["alive"][figure]["n"] == 2
    assert theirs["figures"]["alive"]["face_sim_cur"] == {"mean": None, "n": 0}
    printed = capsys.readouterr().out
    assert f"Figures by {protocol}'s definitions have its flaws: " in printed
    assert "face_sim_cur is left out: name CurricularFace's weights" in printed
    assert theirs["models"] == []
    page = (tmp_path / "report.html").read_text()
    assert f"By {protocol}&#39;s definitions" in page
    assert f'<th title="sort">{figure}</th>' in page
