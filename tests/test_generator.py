"""The Python interface of generation, and the command's grids, mixtures and sweeps, on the toy world."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_people import take_photos

from idanim import person_videos
from idanim.assembly import sampling_overrides
from idanim.config import Run, compose
from idanim.generation.identity import IdTokens, mix
from idanim.generation.schedulers import SCHEDULER_NAMES
from idanim.generator import ALIASES, CancelledError, Generator, Person, Progress
from idanim.metrics.prompts import load_prompts
from idanim.metrics.videos import read_record
from idanim.models.tiny import tiny_backbone, tiny_sparse_control
from idanim.person_videos import generate_videos
from idanim.types import IdanimError
from idanim.video import read_frames

SMALL = ("sampling.num_frames=2", "sampling.num_inference_steps=2", "device=cpu")
PROMPT = "a person wearing a red hat"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return take_photos(tmp_path_factory.mktemp("photos"), ["ada__1.png", "bob.png"])


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator.load(*SMALL)


@pytest.fixture(scope="module")
def people(generator: Generator, photos: list[Path]) -> list[Person]:
    return [generator.person(photo) for photo in photos]


def composed(output: Path, *arguments: str) -> Run:
    run = compose("generate", [*SMALL, *arguments], ALIASES)
    return Run(run.config, output, run.choices, run.git_sha)


@pytest.fixture
def run_with(generator: Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command with models that are loaded already."""

    def generate(*arguments: str) -> list[Path]:
        monkeypatch.setattr(person_videos, "Generator", lambda run, engine: generator)
        return generate_videos(composed(tmp_path, *arguments))

    return generate


def test_a_few_lines_of_python(tmp_path: Path, generator: Generator, people: list[Person]) -> None:
    steps: list[Progress] = []
    video = generator.generate(people[0], PROMPT, seed=1, on_progress=steps.append)
    assert steps == [Progress(1, 2), Progress(2, 2)]
    path = video.save(tmp_path / "ada.mp4", formats=["gif"])
    assert read_frames(path).shape == (2, 32, 32, 3)
    assert read_record(path) == video.record == generator.record(people[0], PROMPT, 1)
    assert path.with_suffix(".gif").is_file()
    longer = generator.generate(people[0], PROMPT, seed=1, num_frames=3)
    assert longer.clip.frames.shape == (3, 32, 32, 3)
    with pytest.raises(IdanimError, match="there is no setting frames; known: num_frames"):
        generator.generate(people[0], PROMPT, frames=3)


def test_work_that_no_step_changes_is_done_once_a_video(
    generator: Generator, people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, calls = generator.sampler, Counter[str]()
    num_layers = len(sampler.backbone.cross_attention_layers())

    def counted(name: str, module: nn.Module) -> None:
        forward = module.forward
        monkeypatch.setattr(module, "forward", lambda *a, **k: (calls.update([name]), forward(*a, **k))[1])

    counted("encode face", sampler.encoder.vision_model)
    counted("id tokens", sampler.adapter.image_proj_model)
    counted("encode text", sampler.backbone.text_encoder)
    counted("denoise", sampler.backbone.unet)
    for name, module in sampler.adapter.named_modules():
        if name.endswith(("to_k_face", "to_v_face")):
            counted("face keys and values", module)
    for layer in sampler.backbone.cross_attention_layers():
        attention = layer.name.removesuffix(".processor")
        for projection in ("to_k", "to_v"):
            counted("text keys and values", sampler.backbone.unet.get_submodule(f"{attention}.{projection}"))
    for num_frames, steps in ((2, 3), (5, 4)):
        calls.clear()
        generator.generate(people[0], PROMPT, num_frames=num_frames, num_inference_steps=steps)
        assert calls == {
            "encode text": 1,
            "denoise": steps,
            "face keys and values": 2 * num_layers,
            "text keys and values": 2 * num_layers,
        }


def test_it_stops_between_two_steps(generator: Generator, people: list[Person]) -> None:
    steps: list[Progress] = []
    before = generator.generate(people[0], PROMPT, seed=1).clip.frames
    with pytest.raises(CancelledError, match="stopped after 1 of 2 steps"):
        generator.generate(people[0], PROMPT, seed=1, on_progress=steps.append, should_stop=lambda: True)
    assert steps == [Progress(1, 2)]
    assert np.array_equal(
        generator.generate(people[0], PROMPT, seed=1).clip.frames, before
    )  # and leaves nothing behind


def test_mixtures(generator: Generator, people: list[Person]) -> None:
    ada, bob = people
    assert torch.equal(generator.mixture(people, [1, 0]).tokens.person, ada.tokens.person)
    middle = generator.mixture(people, [0.5, 0.5])
    assert torch.allclose(middle.tokens.person, (ada.tokens.person + bob.tokens.person) / 2, atol=1e-6)
    assert (middle.name, middle.weights) == ("ada_0.50+bob_0.50", (0.5, 0.5))
    frames = [generator.generate(person, PROMPT).clip.frames.astype(float) for person in (ada, middle, bob)]
    assert not np.array_equal(frames[0], frames[2])
    recipe = generator.record(middle, PROMPT, 0).made_with["recipe"]["values"]
    assert recipe["references"] == [[str(path)] for path in (*ada.sources[0], *bob.sources[0])]
    assert (recipe["mix"], recipe["face_index"]) == ([0.5, 0.5], [None, None])
    with pytest.raises(IdanimError, match="a mixture can't be mixed again"):
        generator.mixture([middle, bob], [0.5, 0.5])
    for weights, words in (
        ([0.7, 0.2], "they sum to 0.9, expected 1"),
        ([1.5, -0.5], "none may be negative"),
        ([1.0], "1 weights for 2 references"),
        ([float("nan"), 1], "expected numbers"),
        (["a", "b"], "expected numbers"),
    ):
        with pytest.raises(IdanimError, match=words):
            generator.mixture(people, weights)


def test_a_mixture_is_the_weighted_mean() -> None:
    one, two = (IdTokens(torch.full((1, 2, 3), value), torch.zeros(1, 2, 3)) for value in (1.0, 5.0))
    assert torch.equal(mix([one, two], [0.75, 0.25]).person, torch.full((1, 2, 3), 2.0))


def test_a_grid_of_people_prompts_and_seeds(
    tmp_path: Path, run_with: Any, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"people=[{photos[0]},{photos[1]}]", "prompt=[a person,a red hat]", "seed=[1,2]")
    paths = run_with(*arguments)
    assert len(paths) == len({path.read_bytes() for path in paths}) == 8
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height > 4 * 100 > 300
    assert capsys.readouterr().out == f"picture   {tmp_path / 'grid.png'}\n"
    before = {path: path.stat().st_mtime_ns for path in paths}
    alone = run_with(f"people=[{photos[1]}]", "prompt=a red hat", "seed=2")  # the same folder
    assert alone == [paths[-1]]
    assert capsys.readouterr().out == ""  # the grid is that of before
    assert {path: path.stat().st_mtime_ns for path in paths} == before  # what is there is kept
    again = paths[-1].read_bytes()
    paths[-1].unlink()
    assert run_with(f"people=[{photos[1]}]", "prompt=a red hat", "seed=2")[0].read_bytes() == again


def test_an_interrupted_grid_leaves_whole_videos(
    tmp_path: Path, run_with: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    calls = 0
    original = Generator.generate

    def interrupted(self: Generator, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Generator, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_with(f"people=[{photos[0]},{photos[1]}]", "prompt=a person")
    (path,) = tmp_path.rglob("*.mp4")
    assert read_frames(path).shape == (2, 32, 32, 3)
    assert json.loads(path.with_suffix(".json").read_text())["identity"] == "ada"
    assert "1 of 2 videos are finished" in caplog.text


def test_a_sweep_from_one_to_the_other(tmp_path: Path, run_with: Any, photos: list[Path], capsys: Any) -> None:
    paths = run_with(f"reference=[{photos[0]},{photos[1]}]", "sweep=3", "prompt=a person", "seed=5")
    assert [read_record(path).made_with["weights"] for path in paths] == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    with Image.open(tmp_path / "sweep.png") as strip:
        assert strip.size == (5 * 112 + 4 * 4, 112)
    assert capsys.readouterr().out == f"picture   {tmp_path / 'sweep.png'}\n"
    alone = run_with(f"reference={photos[0]}", "prompt=a person", "seed=5")
    assert np.array_equal(read_frames(alone[0]), read_frames(paths[0]))


def test_weights_are_a_list_and_a_folder() -> None:
    run = compose("generate", ["weights=[0.7,0.3]", "weights=/models", "reference=[a.jpg,b.jpg]"], ALIASES)
    assert (run.config["mix"], run.config["weights"]) == ([0.7, 0.3], "/models")
    assert run.config["references"] == ["a.jpg", "b.jpg"]


def test_mistakes_are_named_before_models_are_loaded(tmp_path: Path) -> None:
    two = "reference=[a.png,b.png]"
    for arguments, words in (
        (["seed=-1"], "seed=-1: expected a whole number"),
        (["formats=[avi]"], "there is no avi; expected gif, webp, png"),
        ([two, "sweep=1"], "sweep=1: expected 2 or more"),
        (["reference=a.png", "sweep=3"], "sweep=3: expected 2 or more steps, and reference="),
        ([two, "sweep=3", "weights=[1,0]"], "either weights=.* or sweep="),
        (["people=[a.png]", "weights=[1]"], "people= is a grid of different people"),
        (["prompt=[ ]"], "prompt= is empty"),
        (["prompts=nowhere"], "prompts='nowhere': there is no such file; shipped"),
        (["recipe=nowhere.json"], r"recipe='nowhere.json': there is no such file"),
        (["sampler=lightning"], "has weights of its own, which need backbone=public"),
    ):
        with pytest.raises(IdanimError, match=words):
            generate_videos(composed(tmp_path, *arguments))
    with pytest.raises(IdanimError, match="there is no sampler=magic; did you mean"):
        composed(tmp_path, "sampler=magic")


def test_settings_that_do_not_fit(generator: Generator, people: list[Person]) -> None:
    for changes, words in (
        ({"num_frames": 0}, "num_frames=0: this backbone makes 1 to 16 frames"),
        ({"num_frames": 33}, "num_frames=33: .* sampling.free_noise=true"),
        ({"height": 36}, "36 × 32 pixels: both must be multiples of 8"),
        ({"width": 0}, "32 × 0 pixels"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: at least 1"),
        ({"scheduler": "magic"}, "sampling.scheduler='magic': expected one of ddim, dpm"),
    ):
        with pytest.raises(IdanimError, match=words):
            generator.generate(people[0], PROMPT, **changes)
    with pytest.raises(IdanimError, match="prompt= is empty"):
        generator.generate(people[0], "  ")


def test_a_long_prompt_says_what_is_cut(generator: Generator, people: list[Person]) -> None:
    assert generator.prompt_notes([PROMPT]) == []
    many = " ".join(["red"] * 75 + ["blue"] * 10_000)
    (note,), cut = generator.prompt_notes([many]), generator.sampler.backbone.cut_text(many)
    assert "longer than the 77 tokens" in note
    assert note.endswith(f"({len(cut.split())} words)")
    assert cut.endswith("blue blue")
    assert 9_900 < len(cut.split()) < 10_075
    frames = generator.generate(people[0], many).clip.frames
    kept = many.removesuffix(cut)
    assert np.array_equal(frames, generator.generate(people[0], kept).clip.frames)
    assert generator.record(people[0], many, 0).made_with["notes"][-1] == note


def test_words_that_the_toy_world_was_not_taught_are_told_once(
    generator: Generator, people: list[Person], run_with: Any, photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ["A person riding a horse, smiling.", "a person on the moon riding a horse"]
    assert generator.sampler.backbone.unknown_words(prompts[0]) == ["riding", "horse"]
    told = "leave them out: riding, horse, on, moon"
    assert [note.endswith(told) for note in generator.prompt_notes(prompts)] == [True]
    assert "horse" in generator.record(people[0], prompts[0], 0).made_with["notes"][-1]
    run_with(f"reference={photos[0]}", f"prompt={prompts}")
    assert caplog.text.count("was never taught") == 1
    for name in ("toy", "toy_context", "toy_study", "toy_study_small"):
        assert generator.prompt_notes([prompt.text for prompt in load_prompts(name)]) == []


def test_a_vocabulary_that_spells_every_word_knows_all() -> None:
    assert tiny_backbone().unknown_words("an astronaut, 7 × on the moon") == []


@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
def test_every_scheduler_draws_the_same_for_the_same_seed(
    scheduler: str, generator: Generator, people: list[Person]
) -> None:
    a, b, other = (
        generator.generate(people[0], PROMPT, seed, scheduler=scheduler, num_frames=1).clip.frames for seed in (1, 1, 2)
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, other)
    assert a.std() > 5


def test_more_frames_than_the_motion_modules_know(generator: Generator, people: list[Person]) -> None:
    plain = generator.generate(people[0], PROMPT, seed=3).clip.frames
    video = generator.generate(people[0], PROMPT, seed=3, num_frames=21, free_noise=True, num_inference_steps=1)
    assert video.clip.frames.shape == (21, 32, 32, 3)
    assert not np.array_equal(video.clip.frames[0], video.clip.frames[20])
    assert np.array_equal(generator.generate(people[0], PROMPT, seed=3).clip.frames, plain)  # it is off again
    assert np.array_equal(generator.generate(people[0], PROMPT, seed=3, free_noise=True).clip.frames, plain)


def test_without_guidance(generator: Generator, people: list[Person]) -> None:
    one, none = (generator.generate(people[0], PROMPT, guidance_scale=value).clip.frames for value in (1.0, 0.0))
    assert np.array_equal(one, none)
    assert not np.array_equal(one, generator.generate(people[0], PROMPT, guidance_scale=2.0).clip.frames)


@pytest.mark.parametrize("name", ["figure7_context", "figure7_age", "figure7_gender", "toy_context"])
def test_prompt_sets_are_shipped(name: str, generator: Generator) -> None:
    prompts = load_prompts(name)
    assert len(prompts) >= 6
    assert len({prompt.group for prompt in prompts}) >= 2


def test_out_of_memory_names_the_preset(generator: Generator, people: list[Person], monkeypatch: Any) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generator.sampler.backbone.unet, "forward", fails)
    for memory, words in (("full", "take memory=balanced or memory=low"), ("low", "with memory=low: fewer frames")):
        monkeypatch.setattr(generator, "memory", memory)
        with pytest.raises(IdanimError, match=words):
            generator.generate(people[0], PROMPT)


def test_distilled_samplers_bring_their_weights(tmp_path: Path) -> None:
    run = compose(
        "generate", ["sampler=animatelcm", "backbone=public", "weights=/w", "backbone.model.loras={/l/a.pt: 0.5}"]
    )
    model = sampling_overrides(run.config)["backbone"]["model"]
    assert model["motion"] == "/w/AnimateLCM/AnimateLCM_sd15_t2v.ckpt"
    assert model["loras"] == {"/l/a.pt": 0.5, "/w/AnimateLCM/AnimateLCM_sd15_t2v_lora.safetensors": 0.8}
    assert run.config["sampler"]["num_inference_steps"] == 6
    assert sampling_overrides(compose("generate", ["sampler=dpm"]).config) == {}


def test_low_memory_gives_the_same_video_but_for_rounding(people: list[Person], generator: Generator) -> None:
    low = Generator.load(*SMALL, "memory=low", "memory.dtype=float32")
    assert low.sampler.backbone.vae_chunk_frames == 1
    assert low.sampler.backbone.vae.use_tiling
    frames = low.generate(people[0], PROMPT).clip.frames.astype(int)
    assert np.abs(frames - generator.generate(people[0], PROMPT).clip.frames).max() <= 1


def test_offloaded_models_are_on_the_device_only_while_they_work(
    generator: Generator, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, moves = generator.sampler, []
    parts = {"face": sampler.encoder, "adapter": sampler.adapter, **sampler.backbone.parts._asdict()}
    for name, part in parts.items():
        monkeypatch.setattr(part, "to", lambda device, name=name: moves.append((name, device)))
    monkeypatch.setattr(sampler, "offload_from", "cpu:0")
    video = generator.generate(generator.person(photos[0]), PROMPT)
    assert video.record.made_with["device"] == "cpu:0"  # where they work, not where they rest
    work = [("face", "adapter"), ("text",), ("denoiser", "adapter"), ("autoencoder",)]
    assert moves == [(name, device) for names in work for device in ("cpu:0", "cpu") for name in names]


def test_control_by_configuration(
    tmp_path: Path, run_with: Any, generator: Generator, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_network", tiny_sparse_control(generator.sampler.backbone))
    for frames in ("[0]", "[1]"):
        run = composed(tmp_path, "control=rgb", f"control.images={photos[1]}", f"control.frames={frames}")
        monkeypatch.setattr(generator, "run", run)
        control = generator.configured_control()
        assert control is not None
        video = generator.generate(generator.person(photos[0]), PROMPT, control=control)
        stored = video.record.made_with["recipe"]["values"]["control"]
        assert (stored["images"], stored["frames"]) == ([str(photos[1])], json.loads(frames))
        assert str(photos[1]) in video.record.made_with["files"]
    with pytest.raises(IdanimError, match=r"2 pictures for 1 frames"):
        generator.control([photos[0], photos[1]], [0])
    with pytest.raises(IdanimError, match=r"control.images='gone.png': there is no such file"):
        generator.control(["gone.png"], [0])
