from __future__ import annotations

import json
from pathlib import Path

from idanim.study.plan import Cell, plan, read_variants
from idanim.study.results import write_results
from idanim.study.settings import DONE


def write_evaluation(cell: Cell, guidance: float) -> None:
    sampling = {"num_frames": 8, "height": 32, "width": 32, "fps": 8, "num_inference_steps": 8, "guidance_scale": 3.0}
    sampling |= {"negative_prompt": "", "scheduler": "ddim", "free_noise": False, "identity_guidance": guidance}
    rows = [{"system": "adapter", "identity": person, "face_similarity": 0.5} for person in ("ann", "bob")]
    summary = {"face_similarity": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 2}}
    result = {"summary": summary, "identities": rows, "source": {"sampling": sampling}}
    for file, content in (
        ("evaluation/metrics.json", result),
        (f"evaluation/{DONE}", {"arguments": list(cell.arguments), "seconds": 1, "cpu_seconds": 1}),
        (".hydra/overrides.yaml", [f"variant={cell.variant.name}"]),
    ):
        (cell.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (cell.folder / file).write_text(json.dumps(content))


def test_how_videos_were_sampled_is_told(tmp_path: Path) -> None:
    cells = plan(read_variants("best"), [0, 1], [], [], tmp_path)
    for cell in cells:
        write_evaluation(cell, guidance=0.1 if cell.variant.name in ("best", "paper_guided") else 0)
    write_results({"best": cells}, tmp_path, tmp_path / "results.md")
    notes = [line for line in (tmp_path / "results.md").read_text().splitlines() if "sampled with" in line]
    how = "sampled with 8 steps of ddim, guidance scale 3, 8 frames of 32 × 32 pixels at 8 per second"
    assert notes == [
        f"- paper, unguided, no_limit: {how}, no identity guidance",
        f"- best, paper_guided: {how}, identity guidance 0.1 up to similarity 0.7",
    ]
    assert all(note.lstrip("- ") in (tmp_path / "best" / "variants.html").read_text() for note in notes)
