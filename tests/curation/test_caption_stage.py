"""The caption stage inside the whole program, with a captioning server beside it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from caption_server import Reply, completion, pictures_of, prompt_of, serve
from square_faces import arguments, curate, person, write_mp4

from idanim.curate import make_captioner

KINDS = ("attribute", "action", "unified")
FAST = ("captions=server", "captions.model.model=tiny", "captions.model.max_retries=0")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("anna__0", "anna__1", "bea__0", "cleo__0")):
        write_mp4(folder / f"{name}.mp4", person(40 + i, colour=("red", "green", "blue")[i % 3], shade=10 * i))
    (folder / "bea__0.txt").write_text("A given caption.")
    return folder


def rows(output):
    return {row["key"]: row for row in map(json.loads, (output / "annotations.jsonl").read_text().splitlines())}


def report(output):
    return json.loads((output / "report.json").read_text())["captions"]


def shard_bytes(output):
    found = {path.name: path.read_bytes() for path in [*output.glob("*.tar"), output / "annotations.jsonl"]}
    assert len(found) > 1
    return found


def stamps(output):
    return {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()}


def hashed(number, body):
    """Answers that depend on the question alone."""
    return completion("a caption of " + hashlib.sha256(json.dumps(body).encode()).hexdigest()[:6])


def test_captions_of_a_server_reach_the_shards_and_a_second_run_asks_nothing(videos, tmp_path, capsys):
    with serve(lambda number, body: completion(f"answer number {number}")) as server:
        output = curate(videos, tmp_path / "out", *FAST, f"captions.model.base_url={server.url}")
        before = shard_bytes(output)
        assert "answer number" in (output / "report.html").read_text()
        assert len(server.requests) == 3 * 3 + 2
        assert shard_bytes(curate(videos, output, *FAST, f"captions.model.base_url={server.url}")) == before
        assert len(server.requests) == 11
        # The shards themselves may go: the answers are kept, and so every byte comes back.
        for path in output.glob("*.tar"):
            path.unlink()
        more = ("captions.model.concurrency=1", "workers=2")
        assert shard_bytes(curate(videos, output, *FAST, *more, f"captions.model.base_url={server.url}")) == before
        assert len(server.requests) == 11
    found = rows(output)
    assert set(found["anna__0"]["captions"]) == set(KINDS)
    assert found["anna__0"]["caption_states"] == dict.fromkeys(KINDS, "written")
    assert found["bea__0"]["captions"]["unified"] == "A given caption."
    assert found["bea__0"]["caption_states"] == {"attribute": "written", "action": "written", "unified": "given"}
    merged = [prompt_of(body) for body in server.requests if not pictures_of(body)]
    assert len(merged) == 3
    texts = [row["captions"] for key, row in found.items() if key != "bea__0"]
    assert all(any(f"Looks: {t['attribute']}" in prompt and t["action"] in prompt for prompt in merged) for t in texts)
    assert report(output)["states"]["unified"] == {"given": 1, "written": 3}
    assert "unified captions: 1 given, 3 written" in capsys.readouterr().out


def test_other_prompts_caption_again_without_decoding_again(videos, tmp_path):
    with serve(hashed) as server:
        url = f"captions.model.base_url={server.url}"
        output = curate(videos, tmp_path / "out", *FAST, url, "captions.unified=null")
        first, decoded = rows(output), stamps(output)
        assert len(server.requests) == 8
        assert "unified" not in first["anna__0"]["captions"]
        curate(videos, output, *FAST, url, "captions.unified=null", "captions.prompts.action=Moves?")
        assert len(server.requests) == 12
    second = rows(output)
    assert stamps(output) == decoded
    assert all(first[key]["captions"]["attribute"] == second[key]["captions"]["attribute"] for key in first)
    assert all(first[key]["captions"]["action"] != second[key]["captions"]["action"] for key in first)
    curate(videos, output, "captions.text=Another template.")
    assert stamps(output) == decoded
    assert rows(output)["anna__0"]["captions"] == {"unified": "Another template."}
    assert rows(output)["bea__0"]["captions"] == {"unified": "A given caption."}


def test_killed_while_captioning(videos, tmp_path):
    running = []

    def kill_at_the_sixth(number, body):
        if number == 5:
            running[0].kill()
        return hashed(number, body)

    with serve(hashed) as server:
        url = f"captions.model.base_url={server.url}"
        reference = shard_bytes(curate(videos, tmp_path / "reference", *FAST, url))
    output = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with serve(kill_at_the_sixth) as server:
        url = f"captions.model.base_url={server.url}"
        command = [*arguments(videos, output, (*FAST, url, "captions.model.concurrency=2"))]
        running.append(subprocess.Popen([sys.executable, "-m", "idanim.curate", *command], env=environment))
        assert running[0].wait(120) == -9
        assert list(output.glob("*.tar")) == []
        kept = len(list((output / "work" / "captions").glob("*/[0-9a-f]*.json")))
        assert 3 <= kept <= 6
        asked = len(server.requests)
        assert shard_bytes(curate(videos, output, *FAST, url)) == reference
        assert len(server.requests) - asked == 11 - kept
    assert [path for path in output.rglob("*") if ".part" in path.name] == []


def test_no_clip_is_lost_while_the_server_is_away(videos, tmp_path, capsys):
    with serve(lambda number, body: Reply("<html>Bad Gateway</html>", 502)) as server:
        away = (*FAST, f"captions.model.base_url={server.url}", "captions.model.give_up_after=2")
        output = curate(videos, tmp_path / "out", *away, "captions.model.concurrency=1")
        assert len(server.requests) == 2
    found = rows(output)
    assert len(found) == 4
    assert found["anna__0"]["captions"] == {"unified": "A close-up video of a person."}
    assert found["anna__0"]["caption_states"] == {"attribute": "failed", "action": "failed", "unified": "no_source"}
    summary = report(output)
    assert summary["states"]["attribute"] == {"failed": 4}
    assert summary["without_text"] == 3
    assert "502" in summary["troubles"][0]["text"]
    assert any("not asked" in trouble["text"] for trouble in summary["troubles"])
    assert "attribute captions: 4 failed" in capsys.readouterr().out
    assert "asked again next time" in (output / "report.md").read_text()
    with serve(hashed) as server:
        curate(videos, output, *FAST, f"captions.model.base_url={server.url}")
    assert rows(output)["anna__0"]["caption_states"] == dict.fromkeys(KINDS, "written")
    assert report(output)["troubles"] == []


def test_kinds_with_equal_settings_share_one_model(tmp_path):
    server = {"_target_": "idanim.captioning.server.ServerModel", "base_url": "http://localhost/v1", "model": "m"}
    config = {"text": "Somebody.", "num_frames": 8, "max_px": 512, "max_words": 9}
    config["prompts"] = {"attribute": "Looks?", "action": "Moves?", "unified": "{attribute} {action}"}
    config |= {"attribute": dict(server), "action": server | {"model": "other"}, "unified": dict(server)}
    models = make_captioner(config, tmp_path).models
    assert models["attribute"] is models["unified"]
    assert models["action"].model == "other"


def test_wrong_settings_of_the_server_end_the_run_and_videos_stay(videos, tmp_path):
    with serve(lambda number, body: Reply('{"error": "no such model"}', 404)) as server:
        with pytest.raises(SystemExit, match=r"replied 404: .*no such model.*captions\.model\.base_url"):
            curate(videos, tmp_path / "out", *FAST, f"captions.model.base_url={server.url}")
        with pytest.raises(SystemExit, match=r"captions\.model\.model"):
            curate(videos, tmp_path / "none", "captions=server")
    assert len(list((tmp_path / "out" / "work" / "videos").glob("*.tar"))) == 4
    assert not (tmp_path / "none" / "work").exists()
