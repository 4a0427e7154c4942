"""Which systems an evaluation compares, and the bad input of their files."""

import hydra
import numpy as np
import pytest
import torch
from drawn_evaluation import SAMPLING, VIDEO, DrawingSampler, loader, run, write_checkpoint
from omegaconf import OmegaConf
from toy_people import ADAPTER as TOY_ADAPTER
from toy_people import take_photos, write_official_file

from idanim.config import CONF_DIR, Run, check_overrides, restore
from idanim.evaluation import evaluate
from idanim.generation.sampler import Sampler, VideoRequest
from idanim.generation.settings import SamplingSettings
from idanim.metrics.prompts import load_prompts
from idanim.models.adapter import FaceAdapter
from idanim.models.adapter_file import read_adapter_file, write_ip_adapter
from idanim.models.tiny import tiny_backbone, tiny_encoder
from idanim.plain_values import plain_arguments
from idanim.systems import System, SystemLoader, fill_grid, parse_systems
from idanim.types import IdanimError
from idanim.video import read_frames


@pytest.fixture
def files(tmp_path):
    """The toy adapter as one of our runs, as an official file and in the layout of IP-Adapter-Plus-Face."""
    ours = tmp_path / "runs" / "first" / "adapter.safetensors"
    ours.parent.mkdir(parents=True)
    ours.symlink_to(TOY_ADAPTER)
    plus = tmp_path / "plus-face.safetensors"
    write_ip_adapter(plus, read_adapter_file(TOY_ADAPTER).state)
    return {"ours": ours, "official": write_official_file(tmp_path / "animator.ckpt"), "plus": plus}


def test_names_of_systems(files):
    own, official, plus = files["ours"], files["official"], files["plus"]
    systems = parse_systems(["init", str(plus), "no_adapter", f"theirs={official}", "adapter"], own)
    assert [(system.name, system.ckpt, system.is_named) for system in systems] == [
        ("no_adapter", own, False),
        ("adapter", own, False),
        ("init", own, False),
        ("plus-face", plus, True),
        ("theirs", official, True),
    ]
    assert [system.shows_nobody for system in systems] == [True, False, False, False, False]
    assert [system.is_initial for system in systems] == [False, False, True, False, False]
    mapped = parse_systems({"no_adapter": None, "theirs": str(official)}, None)
    assert mapped == [System("no_adapter", official), System("theirs", official, is_named=True)]


def test_our_runs_go_by_the_name_of_their_folder(files):
    assert [system.name for system in parse_systems([str(files["ours"])], None)] == ["first"]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5])
def test_no_number_of_videos_is_refused(tmp_path, batch_size):
    with pytest.raises(IdanimError, match=f"batch_size={batch_size}: expected a whole number"):
        fill_grid([], [], tmp_path, DrawingSampler, SamplingSettings(4, 32, 32, 2, 3.0, "", 8), {}, batch_size)


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ([], "expected some of adapter, no_adapter, init"),
        (["initial"], "initial: expected some of adapter, no_adapter, init, or an adapter file that is there"),
        (["adapter"], r"systems=adapter: give ckpt=<file>"),
        (["no_adapter"], r"systems=no_adapter: give ckpt=<file>"),
        (["a=nowhere.bin"], "a: 'nowhere.bin': there is no such file"),
        (["a/b={plus}"], "has a slash in it"),
        (["init={plus}"], "is taken"),
        (["{plus}", "plus-face={official}"], "plus-face is there twice; tell files apart"),
    ],
)
def test_mistakes_are_named(files, systems, message):
    texts = [text.format(**files) for text in systems]
    with pytest.raises(IdanimError, match=message):
        parse_systems(texts, None)


def test_an_adapter_on_whole_pictures_is_refused_before_anything_is_generated(tmp_path, files):
    path = tmp_path / "ip-adapter_sd15.bin"
    parts = {"image_proj": {"proj.weight": torch.zeros(4, 4)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2, 2)}}
    torch.save(parts, path)
    with pytest.raises(IdanimError, match=r"image projection.*no face adapter"):
        parse_systems(["adapter", str(path)], files["ours"])


def test_models_are_loaded_once_and_one_at_a_time(tmp_path):
    loads = []

    def load(ckpt, *options, **more):
        loads.append((ckpt.name, options, more))
        return object(), {}

    loader = SystemLoader(load, (1, 2))
    own, other = tmp_path / "own", tmp_path / "other"
    same = loader(System("adapter", own))
    assert loader(System("no_adapter", own)) is same
    loader(System("init", own))
    loader(System("x", other, is_named=True), {"model": 1})
    assert loads == [
        ("own", (1, 2), {}),
        ("own", (1, 2), {"initial": True}),
        ("other", (1, 2), {"default_backbone": {"model": 1}}),
    ]


def test_adapters_of_others_run_in_the_same_grid(tmp_path, files):
    """Three files of the same weights draw the same videos; the backbone of the first serves those without one."""
    take_photos(tmp_path / "photos", ["ada.png", "bob.png"])
    small = {"num_frames": 2, "num_inference_steps": 2}
    systems = {"no_adapter": None, "adapter": None, "plus": str(files["plus"]), "official": str(files["official"])}
    values = {"ckpt": str(files["ours"]), "references": str(tmp_path / "photos"), "prompts": ["a person"]}
    values |= {"sampling": small, "systems": systems, "num_identities": 1, "scale": 0.8}
    config = restore("evaluate", {"choices": {"logger": "csv", "faces": "toy"}, "values": values})
    result = evaluate(Run(config, tmp_path / "out", {}, "abc"))
    assert list(result["groups"]) == ["adapter", "no_adapter", "official", "plus"]
    videos = tmp_path / "out" / "videos"
    paths = {name: next((videos / name).rglob("*.mp4")) for name in systems}
    frames = {name: read_frames(path).tobytes() for name, path in paths.items()}
    assert frames["adapter"] == frames["plus"] == frames["official"]
    assert frames["adapter"] != frames["no_adapter"]
    assert b"AI-generated, not a recording" in paths["plus"].read_bytes()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:video/mp4") == 4
    assert result["source"]["systems"]["plus"] == str(files["plus"])


@pytest.mark.parametrize("text", ["[no_adapter,{0}]", "[plus-face={0}]", "{{no_adapter: null, plus-face: {0}}}"])
def test_systems_on_the_command_line(files, text):
    arguments = plain_arguments([f"systems={text.format(files['plus'])}"])
    check_overrides("evaluate", arguments)
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("evaluate", overrides=arguments), resolve=False)
    systems = parse_systems(config["systems"], files["ours"])
    assert (systems[-1].name, systems[-1].ckpt) == ("plus-face", files["plus"])


def test_settings_are_those_of_ckpt_whatever_is_compared(tmp_path, shards):
    """The adapter of B alone is asked for, but the grid is A's: its people, prompts and length."""
    first = write_checkpoint(tmp_path / "a.safetensors", data={"shards": str(shards)})
    longer = {"backbone": {"video": VIDEO | {"num_frames": 9}, "sampling": SAMPLING, "prompts": "default"}}
    other = write_checkpoint(tmp_path / "b.safetensors", weight=1.0, **longer)
    values = {"ckpt": str(first), "systems": [str(other)], "num_identities": 1}
    result = evaluate(run(tmp_path / "out", **values), loader(DrawingSampler()))
    assert {row["system"] for row in result["videos"]} == {"b"}
    assert {row["num_frames"] for row in result["videos"]} == {6}
    assert len(result["videos"]) == len(load_prompts("toy"))
    assert result["source"]["ckpt"] == str(first)


def test_a_sampler_and_memory_can_be_chosen(tmp_path, shards):
    ckpt = write_checkpoint(tmp_path / "a.safetensors", data={"shards": str(shards)})
    values = {"ckpt": str(ckpt), "prompts": ["a hat"], "num_identities": 1}
    config = restore(
        "evaluate", {"choices": {"logger": "csv", "sampler": "lcm", "memory": "balanced"}, "values": values}
    )
    config["faces"] = {"_target_": "drawn_evaluation.DrawnEngine"}
    config["memory"]["dtype"] = None
    sampler = DrawingSampler()
    sampler.encoder = None
    result = evaluate(Run(config, tmp_path / "out", {}, "abc"), loader(sampler))
    assert result["source"]["sampling"]["scheduler"] == "lcm"
    assert result["source"]["sampling"]["num_inference_steps"] == 8
    config["memory"]["dtype"] = "int3"
    with pytest.raises(IdanimError, match=r"memory\.dtype"):
        evaluate(Run(config, tmp_path / "again", {}, "abc"), loader(sampler))


def test_videos_sampled_together_are_those_sampled_one_by_one() -> None:
    backbone, encoder = tiny_backbone(), tiny_encoder(image_size=32)
    sampler = Sampler(backbone, encoder, FaceAdapter(backbone, encoder.feature_dim, 4, depth=1, dim_head=8, heads=2))
    settings = SamplingSettings(4, 32, 32, 2, 3.0, "", 8)
    pictures = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    requests = [VideoRequest([pictures[i]], f"prompt {i}", seed=i, identity=f"p{i}") for i in range(3)]
    together = sampler.generate_together(requests, settings)
    for request, clip in zip(requests, together, strict=True):
        alone = sampler.generate(*request[:3], settings, request.identity)
        assert np.abs(alone.frames.astype(int) - clip.frames).max() <= 1
        assert (clip.prompt, clip.seed, clip.identity) == (request.prompt, request.seed, request.identity)
    assert (together[0].frames != together[1].frames).any()
    mixed = sampler.generate_together([requests[0], VideoRequest([], "plain", 0)], settings)
    assert np.abs(mixed[0].frames.astype(int) - together[0].frames).max() <= 1
