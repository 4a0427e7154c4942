"""The shipped weights on people nobody trained on: small samples, thresholds with a margin for noise."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from idanim.faces.align import aligned_crop
from idanim.generation.sampler import Sampler, VideoRequest
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.toyworld.captions import caption
from idanim.toyworld.faces import ToyFaceEngine
from idanim.toyworld.make_videos import LARGEST_TRAINING_SEED
from idanim.toyworld.people import POSE_SPREAD, Scene, sample_identities, sample_scene
from idanim.toyworld.renderer import render
from idanim.toyworld.shipped import shipped
from idanim.toyworld.stages.reader import attribute_accuracy
from idanim.toyworld.weights import load_action_reader, load_reader
from idanim.types import GeneratedClip
from idanim.video import to_uint8

NUM_PEOPLE = 40
NUM_GENERATED = 12
LEAST_SIMILARITY_GAIN = 0.15
NUM_FRAMES, NUM_STEPS = 4, 6
"""Of the videos that are generated: half of the usual, and what is measured here hardly changes."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Two clips of each person."""
    generator = torch.Generator().manual_seed(LARGEST_TRAINING_SEED + 7)
    return sample_scene(sample_identities(NUM_PEOPLE, generator).repeat_interleave(2, 0), 8, generator)


@pytest.fixture(scope="module")
def clips(scene: Scene) -> torch.Tensor:
    return render(scene, 32).float() / 127.5 - 1


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return AnimateDiffBackbone.from_pretrained(shipped("backbone"))


def embed(engine: ToyFaceEngine, pictures: torch.Tensor) -> NDArray[np.float32]:
    vectors = []
    for picture in ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy():
        (face,) = engine.detect(picture)
        vectors.append(engine.embed(picture, face))
    return np.stack(vectors)


def test_the_metric_recogniser_tells_people_apart_also_through_the_codec(
    clips: torch.Tensor, backbone: AnimateDiffBackbone
) -> None:
    engine = ToyFaceEngine(shipped("faces"), "b")
    first, second = embed(engine, clips[0::2, 2]), embed(engine, clips[1::2, 5])
    cosine = first @ second.T
    right, wrong = np.diag(cosine), cosine[~np.eye(NUM_PEOPLE, dtype=bool)]
    accuracy = max(((right > t).mean() + (wrong <= t).mean()) / 2 for t in np.linspace(0, 0.9, 91))
    assert accuracy > 0.93
    assert (cosine.argmax(1) == np.arange(NUM_PEOPLE)).mean() > 0.75
    restored = backbone.decode_video(backbone.encode_video(clips[0::2, 2:3]).mean)[:, 0]
    kept = (embed(engine, restored) * second).sum(1).mean() / right.mean()
    assert kept > 0.9


def test_attributes_and_actions_are_read_right(scene: Scene, clips: torch.Tensor) -> None:
    reader, actions = load_reader(), load_action_reader()
    accuracy = attribute_accuracy(reader, clips[:, 3], scene.attributes)
    assert min(accuracy[name] for name in ("background", "shirt", "hat")) > 0.95
    assert accuracy["glasses"] > 0.9
    with torch.no_grad():
        tracks = reader(clips.flatten(0, 1)).pose.unflatten(0, clips.shape[:2])
        read = actions(tracks / POSE_SPREAD).argmax(1)
    assert (read == scene.attributes.action).float().mean() > 0.85


def test_the_text_to_video_model_follows_prompts(scene: Scene, backbone: AnimateDiffBackbone) -> None:
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    backbone.set_processors(None)
    wanted = scene.select(slice(0, 8)).attributes
    text, silence = backbone.encode_text([*(caption(wanted, index) for index in range(8)), ""]).split([8, 1])
    made = pipeline(
        prompt_embeds=text, negative_prompt_embeds=silence.expand_as(text), num_frames=NUM_FRAMES, height=32, width=32,
        num_inference_steps=NUM_STEPS, guidance_scale=3.0, output_type="pt",
        generator=[torch.Generator().manual_seed(index) for index in range(8)],
    ).frames  # fmt: skip
    frames = made[:, NUM_FRAMES // 2] * 2 - 1
    accuracy = attribute_accuracy(load_reader(), frames, wanted)
    assert sum(accuracy[name] for name in ("background", "shirt", "hat")) / 3 > 0.8


def test_the_shipped_adapter_draws_the_person_of_the_reference_and_not_a_stranger(
    scene: Scene, clips: torch.Tensor, backbone: AnimateDiffBackbone
) -> None:
    """Gate 3 on a few people: their references, prompts that have nothing to do with them, through the real classes."""
    engine = ToyFaceEngine(shipped("faces"), "b")
    encoder = ClipFaceEncoder.from_pretrained(shipped("image_encoder"))
    adapter = FaceAdapter.from_file(shipped("adapter.safetensors"), backbone, dim_head=24)
    sampler = Sampler(backbone, encoder, adapter)
    settings = SamplingSettings(NUM_FRAMES, 32, 32, NUM_STEPS, 3.0, "", 8)
    own, others = [], []
    references = to_uint8(clips[0::2, 2])
    vectors = embed(engine, clips[0::2, 2])
    requests = []
    for person in range(NUM_GENERATED):
        crop = aligned_crop(references[person], engine.detect(references[person])[0].landmarks, 32)
        requests.append(VideoRequest([crop], caption(scene.attributes, NUM_PEOPLE + person), person))
    for person, video in enumerate(sampler.generate_together(requests, settings)):
        assert isinstance(video, GeneratedClip), video
        frame = torch.from_numpy(video.frames[NUM_FRAMES // 2]).permute(2, 0, 1)[None].float() / 127.5 - 1
        found = embed(engine, frame) @ vectors.T
        own.append(found[0, person])
        others.append(np.delete(found[0], person).mean())
    assert np.mean(own) - np.mean(others) > LEAST_SIMILARITY_GAIN


def test_the_reference_encoder_loads() -> None:
    encoder = ClipFaceEncoder.from_pretrained(shipped("image_encoder"))
    assert encoder.image_size == 32
    assert encoder.feature_dim == 128
