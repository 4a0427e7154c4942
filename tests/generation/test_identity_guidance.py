"""Identity guidance on the toy world."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from toy_people import ADAPTER, take_photos

from idanim.assembly import attach_identity_guidance, load_sampler
from idanim.config import Run, compose
from idanim.faces.engine import detect_all
from idanim.generation.identity import mix
from idanim.generation.identity_guidance import Aim, IdentityGuidance
from idanim.generation.sampler import Sampler, VideoRequest
from idanim.generation.schedulers import SCHEDULER_NAMES, noise_level, scheduler_like
from idanim.generation.settings import SamplingSettings
from idanim.generator import Generator
from idanim.models.animatediff import animatediff_scheduler
from idanim.models.recogniser import FaceRecogniser
from idanim.person_videos import generate_videos
from idanim.toyworld.faces import ToyFaceEngine
from idanim.toyworld.make_videos import film
from idanim.toyworld.shipped import shipped
from idanim.types import GeneratedClip, IdanimError
from idanim.video import UnusableVideoError

SETTINGS = SamplingSettings(4, 32, 32, 6, 3.0, "", 8, identity_guidance=0.1)
PROMPT = "a person in front of a blue background"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return load_sampler(ADAPTER, {}, "cpu")[0]


@pytest.fixture(scope="module")
def guidance(sampler: Sampler) -> IdentityGuidance:
    recogniser = FaceRecogniser(shipped("faces/recogniser_a.onnx"))
    return IdentityGuidance(sampler.backbone, recogniser, partial(detect_all, ToyFaceEngine(shipped("faces"))))


@pytest.fixture(scope="module")
def guided(sampler: Sampler, guidance: IdentityGuidance) -> Sampler:
    return Sampler(sampler.backbone, sampler.encoder, sampler.adapter, identity_guidance=guidance)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """[3, 4, 64, 64, 3] uint8, clips of three people."""
    return np.stack([video.frames for video in film(3, clips_per_person=1, num_frames=4, size_px=64, seed=20000)])


@pytest.fixture(scope="module")
def latents(sampler: Sampler) -> Tensor:
    """[2, C, 4, h, w] of two people."""
    videos = film(2, clips_per_person=1, num_frames=4, size_px=32, seed=20000)
    frames = torch.from_numpy(np.stack([video.frames for video in videos])).permute(0, 1, 4, 2, 3)
    return sampler.backbone.encode_video(frames / 127.5 - 1).mean


def similarity(guidance: IdentityGuidance, frames: np.ndarray, person: Tensor) -> float:
    """Mean over frames [F, H, W, 3], by the recogniser that leads."""
    return float((guidance.face_vector(list(frames)) @ person.T).mean())


def decoded(sampler: Sampler, latents: Tensor) -> np.ndarray:
    pixels = sampler.backbone.decode_video(latents).clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 1, 3, 4, 2).numpy()


@torch.no_grad()
def test_the_direction_leads_to_the_person(sampler, guidance, pictures, latents):
    persons = normalize(torch.cat([guidance.face_vector(list(pictures[2]))] * 2), dim=1)
    direction = guidance.direction(latents, Aim(persons, 0.1, limit=1.0))
    apart = IdentityGuidance(sampler.backbone, guidance.recogniser, guidance.find_faces, shared=0.0)
    moves = apart.direction(latents, Aim(persons, 0.1, limit=1.0))
    torch.testing.assert_close(moves.pow(2).mean((1, 3, 4)).sqrt(), torch.ones(2, 4))
    for before, after in zip(decoded(sampler, latents), decoded(sampler, latents + 0.1 * direction), strict=True):
        assert similarity(guidance, after, persons[:1]) > similarity(guidance, before, persons[:1]) + 0.05


@torch.no_grad()
def test_chunks_change_nothing_and_frames_share(sampler, guidance, pictures, latents):
    aim = Aim(guidance.face_vector([pictures[2, 0]]).expand(2, -1), 0.1, limit=1.0)

    def with_(**options: float) -> IdentityGuidance:
        return IdentityGuidance(sampler.backbone, guidance.recogniser, guidance.find_faces, **options)

    one_by_one = with_(chunk_frames=1).direction(latents, aim)
    torch.testing.assert_close(one_by_one, guidance.direction(latents, aim), rtol=1e-3, atol=1e-3)
    same = with_(shared=1.0).direction(latents, aim)
    torch.testing.assert_close(same, same[:, :, :1].expand_as(same))
    apart = with_(shared=0.0).direction(latents, aim)
    assert float((apart - apart[:, :, :1]).abs().max()) > 0.1


@torch.no_grad()
def test_frames_that_are_near_enough_are_left_alone(sampler, guidance, pictures, latents):
    frames = decoded(sampler, latents)
    own = guidance.face_vector(list(frames[0]))
    apart = IdentityGuidance(sampler.backbone, guidance.recogniser, guidance.find_faces, shared=0.0)
    assert not apart.direction(latents[:1], Aim(own, 0.1, limit=0.5)).any()
    half = similarity(guidance, frames[0][:1], own) + 0.05  # the middle of the ramp
    size = apart.direction(latents[:1, :, :1], Aim(own, 0.1, limit=half)).pow(2).mean().sqrt()
    assert float(size) == pytest.approx(0.5, abs=0.1)


@torch.no_grad()
def test_frames_without_a_face_do_not_count(sampler, guidance, pictures, latents):
    aim = Aim(guidance.face_vector([pictures[2, 0]]), 0.1, limit=1.0)
    grey = sampler.backbone.encode_video(torch.zeros(1, 1, 3, 32, 32)).mean
    assert not guidance.direction(grey, aim).any()
    mixed = torch.cat([latents[:1, :, :2], grey], dim=2)
    apart = IdentityGuidance(sampler.backbone, guidance.recogniser, guidance.find_faces, shared=0.0)
    moves = apart.direction(mixed, aim).abs().amax((0, 1, 3, 4))
    assert moves[2] == 0
    assert (moves[:2] > 0).all()


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_the_noise_level_is_the_schedulers(name):
    """At every time and in its own scale."""
    scheduler = scheduler_like(name, animatediff_scheduler().config)
    scheduler.set_timesteps(5)
    clean, noise = torch.randn(2, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps[1:4]:
        noisy = scheduler.add_noise(clean, noise, timestep[None])
        share, magnified = noise_level(scheduler, timestep)
        expected = share**0.5 * clean + (1 - share) ** 0.5 * noise
        torch.testing.assert_close(noisy / magnified, expected, rtol=1e-3, atol=1e-3)


def test_answers_and_clean_videos_are_inverse(sampler, latents):
    diffused = sampler.backbone.diffuse(latents, torch.randn_like(latents), torch.tensor([0.2, 0.7]))
    answer = sampler.backbone.answer_for(diffused, latents)
    torch.testing.assert_close(answer, diffused.target, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sampler.backbone.clean(diffused, answer), latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_strength_zero_steps_as_the_plain_scheduler(sampler, guidance, name):
    steps = []
    for leads in (False, True):
        scheduler = scheduler_like(name, sampler.backbone.scheduler_config)
        scheduler.set_timesteps(6)
        if leads:
            guidance.lead(scheduler, Aim(torch.zeros(1, 128), 0.0, limit=1.0))
        latents, answer = torch.randn(2, 1, 24, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        for timestep in scheduler.timesteps:
            generator = torch.Generator().manual_seed(1)
            more = {} if name in ("dpm", "unipc") else {"generator": generator}
            latents = scheduler.step(answer, timestep, latents, **more).prev_sample
        steps.append(latents)
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-3)


def test_videos_are_nearer_to_the_person(guided, guidance, pictures):
    person = guidance.face_vector([pictures[2, 0]])
    nearness = {}
    for strength in (0.0, 0.05, 0.2):
        settings = replace(SETTINGS, identity_guidance=strength, identity_guidance_limit=1.0)
        clip = guided.generate([pictures[2, 0]], PROMPT, 0, settings)
        nearness[strength] = similarity(guidance, clip.frames, person)
    assert nearness[0.2] > nearness[0.05] > nearness[0.0]
    assert nearness[0.2] > nearness[0.0] + 0.1


def test_together_as_alone(guided, pictures):
    requests = [VideoRequest([clip[0]], PROMPT, seed) for seed, clip in enumerate(pictures[:2])]
    together = guided.generate_together(requests, SETTINGS)
    for request, clip in zip(requests, together, strict=True):
        alone = guided.generate(request.references, PROMPT, request.seed, SETTINGS)
        difference = np.abs(clip.frames.astype(int) - alone.frames)
        assert np.mean(difference) < 0.5  # a face found a pixel beside may move what follows a little


def test_a_video_that_is_no_number_spoils_no_other(guided, pictures, monkeypatch):
    requests = [VideoRequest([clip[0]], PROMPT, 0) for clip in pictures[:2]]
    good = guided.id_tokens([pictures[0, 0]])
    bad = good._replace(person=torch.full_like(good.person, torch.nan))
    tokens = iter([good, bad])
    monkeypatch.setattr(guided, "id_tokens", lambda references: next(tokens))
    shown, failed = guided.generate_together(requests, replace(SETTINGS, num_inference_steps=3))
    assert isinstance(shown, GeneratedClip)
    assert isinstance(failed, UnusableVideoError)


def test_records_from_before_stay_the_same():
    off = replace(SETTINGS, identity_guidance=0.0).recorded()
    assert not {"identity_guidance", "identity_guidance_limit"} & off.keys()
    assert SETTINGS.recorded()["identity_guidance_limit"] == 0.7


@pytest.mark.parametrize(
    "changes", [{"scheduler": "euler"}, {"scheduler": "lcm"}, {"num_frames": 18, "free_noise": True}]
)
def test_every_way_of_sampling_is_led(guided, pictures, changes):
    settings = replace(SETTINGS, **{"num_frames": 2, "num_inference_steps": 3, "width": 48} | changes)
    plain = guided.generate([pictures[2, 0]], PROMPT, 0, replace(settings, identity_guidance=0.0))
    led = guided.generate([pictures[2, 0]], PROMPT, 0, settings)
    assert led.frames.shape == (settings.num_frames, 32, 48, 3)
    assert (led.frames != plain.frames).any()


def test_half_precision_leads_the_same_way(sampler, guidance, pictures, latents):
    aim = Aim(guidance.face_vector([pictures[2, 0]]).expand(2, -1), 0.1, limit=1.0)
    expected = guidance.direction(latents, aim)
    half = copy.deepcopy(sampler.backbone).to(torch.float16)
    found = IdentityGuidance(half, guidance.recogniser, guidance.find_faces).direction(latents, aim)
    assert float(cosine_similarity(found.flatten(), expected.flatten(), dim=0)) > 0.95


def test_nobody_is_left_alone(guided, sampler):
    plain = sampler.generate([], PROMPT, 0, replace(SETTINGS, identity_guidance=0.0))
    assert (guided.generate([], PROMPT, 0, SETTINGS).frames == plain.frames).all()


def test_a_mixture_is_led_to_the_average(guided, pictures):
    tokens = [guided.id_tokens([clip[0]]) for clip in pictures[:2]]
    mixed = mix(tokens, [0.25, 0.75])
    torch.testing.assert_close(mixed.face_vector, 0.25 * tokens[0].face_vector + 0.75 * tokens[1].face_vector)


def test_what_does_not_fit_is_told(sampler, guided, pictures):
    with pytest.raises(IdanimError, match=r"sampling\.identity_guidance=0\.1"):
        sampler.check(SETTINGS)
    with pytest.raises(IdanimError, match="expected 0 or more"):
        guided.check(replace(SETTINGS, identity_guidance=-1.0))
    with pytest.raises(IdanimError, match=r"sampling\.num_inference_steps='many': expected a whole number"):
        replace(SETTINGS, num_inference_steps="many")
    with pytest.raises(IdanimError, match=r"sampling\.free_noise=1: expected true or false"):
        replace(SETTINGS, free_noise=1)
    with pytest.raises(IdanimError, match="expected -1 to 1"):
        guided.check(replace(SETTINGS, identity_guidance_limit=math.nan))
    unled = sampler.id_tokens([pictures[0, 0]])
    with pytest.raises(IdanimError, match="read without a recogniser"):
        guided.generate_from(unled, PROMPT, 0, SETTINGS)
    with pytest.raises(IdanimError, match="some without"):
        mix([unled, guided.id_tokens([pictures[1, 0]])], [0.5, 0.5])
    with pytest.raises(IdanimError, match=r"needs a face recogniser.*there is no file None"):
        attach_identity_guidance(sampler, {"backbone": {"recogniser": None}}, None, SETTINGS, {})


def test_the_program_and_its_recipes(tmp_path):
    """A recipe makes the same bytes again and knows the recogniser's file."""
    (photo,) = take_photos(tmp_path, ["ada.png"])
    options = ("sampling.num_frames=2", "sampling.num_inference_steps=3", "device=cpu")
    guided = "sampling.identity_guidance=0.1"
    run = compose("generate", [*options, guided, f"references={photo}", f"prompt={PROMPT}"])
    (video,) = generate_videos(Run(run.config, tmp_path / "a", run.choices, run.git_sha))
    record = video.with_suffix(".json")
    assert str(Path(shipped("faces/recogniser_a.onnx")).resolve()) in record.read_text()
    again = compose("generate", [f"recipe={record}"])
    (same,) = generate_videos(Run(again.config, tmp_path / "b", again.choices, again.git_sha))
    assert same.read_bytes() == video.read_bytes()
    plain = Generator.load(*options)
    with pytest.raises(IdanimError, match=r"sampling\.identity_guidance=0\.1"):
        plain.generate(plain.person(photo), PROMPT, identity_guidance=0.1)
