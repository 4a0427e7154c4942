"""Make the toy world's weights from nothing: `python -m idanim.toyworld.make_weights <folder>`.

Every stage writes its state under <folder>/state and goes on from there when the program is started again.
The result lies in <folder>/weights, in the layout of `idanim.toyworld.weights`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, UNetMotionModel
from PIL import Image

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.checkpoint import write_adapter
from idanim.models.encoder import ClipFaceEncoder
from idanim.toyworld import weights
from idanim.toyworld.codec import read_encoder
from idanim.toyworld.diffusion import build_motion_unet, build_scheduler
from idanim.toyworld.make_videos import LARGEST_TRAINING_SEED, film
from idanim.toyworld.networks import ActionReader, Detector, Reader, Recogniser
from idanim.toyworld.onnx_export import export_recogniser
from idanim.toyworld.stages import (
    adapter,
    adapter_clips,
    autoencoder,
    backbone,
    gates,
    motion,
    reader,
    recogniser,
    vision,
)
from idanim.toyworld.stages.corpus import TEST_SEED, TRAIN_SEED, Corpus, render_corpus
from idanim.toyworld.stages.loop import Schedule
from idanim.toyworld.stages.measure import Judges, codec_retention, make_trial

log = logging.getLogger(__name__)

CLIPS_PER_TRAIN_PERSON = 3
CLIPS_PER_TEST_PERSON = 4


@dataclass(frozen=True)
class Plan:
    """How long each stage trains, in optimiser steps, on how many people, and in how large batches.

    The defaults take hours of two CPU cores.
    """

    train_people: int = 8000
    test_people: int = 256
    batch_factor: int = 1
    autoencoder: int = 2000
    recogniser: int = 1000
    reader: int = 1000
    action_reader: int = 2000
    detector: int = 800
    vision: int = 3000
    backbone: int = 6000
    motion: int = 4000
    teacher: int = 1500
    resampler: int = 1000
    attention: int = 1000
    adapter: int = 2700
    adapter_clips: int = 1500

    def shortened(self, num_steps: int, num_people: int) -> Plan:
        """Give every stage `num_steps`, on `num_people`, to see that everything runs."""
        sizes = {"train_people": num_people, "test_people": max(4, num_people // 2), "batch_factor": 1}
        steps = {name: num_steps for name in self.__dataclass_fields__ if name not in sizes}
        return replace(self, **sizes, **steps)


PLANS = {
    "cpu": Plan(),
    "gpu": Plan(
        train_people=16_000,
        batch_factor=8,
        autoencoder=3000,
        recogniser=2500,
        reader=2500,
        action_reader=4000,
        detector=2000,
        vision=6000,
        backbone=11_000,
        motion=9000,
        teacher=1200,
        resampler=2000,
        attention=800,
        adapter=5000,
        adapter_clips=4000,
    ),
}
"""By name. "gpu" wants some 25 minutes of an H100 by an estimate; LOG.md says what made the shipped weights."""


class Workshop:
    """Makes each part when it is first asked for, from the parts it needs.

    Args:
        folder: of the training states and the result.
        plan: how long each stage trains.
        device: trains and measures.
    """

    def __init__(self, folder: Path, plan: Plan, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.state = folder / "state"
        self.output = folder / "weights"
        self.folder = folder
        self.plan = plan

    def _corpus(self, name: str, num_people: int, clips_per_person: int, seed: int) -> Corpus:
        return render_corpus(self.folder / name, num_people, clips_per_person, seed, self.device)

    @cached_property
    def train(self) -> Corpus:
        """People that are trained on."""
        return render_corpus(
            self.folder / "train", self.plan.train_people, CLIPS_PER_TRAIN_PERSON, TRAIN_SEED, self.device
        )

    @cached_property
    def test(self) -> Corpus:
        """People that are only measured on."""
        return self._corpus("test", self.plan.test_people, CLIPS_PER_TEST_PERSON, TEST_SEED)

    def _schedule(self, stage: str, peak_lr: float, batch_size: int, **settings: float) -> Schedule:
        """How long and fast a stage trains; `batch_size` is that of a CPU."""
        steps = getattr(self.plan, stage)
        return replace(Schedule(steps, peak_lr, batch_size * self.plan.batch_factor), **settings)  # type: ignore[arg-type]

    @cached_property
    def codec(self) -> AutoencoderKL:
        """The autoencoder."""
        schedule = self._schedule("autoencoder", 2e-3, 32, ema_decay=0.99)
        codec = autoencoder.train_autoencoder(self.train, self.state, schedule)
        log.info("autoencoder: %.2f dB on held-out people", autoencoder.measure_psnr(codec, self.test))
        return codec

    @cached_property
    def encode(self) -> backbone.PatchMap:
        """The autoencoder's encoder, fast."""
        patch_map = read_encoder(autoencoder.encoded_autoencoder(self.train).cpu())
        return backbone.PatchMap(*(part.to(self.device) for part in patch_map))

    def recogniser(self, name: str) -> Recogniser:
        """Recogniser "a" or "b"."""
        schedule = self._schedule(
            "recogniser", 4e-3, 128, warmup_steps=60, flat_share=0.0, ema_decay=0.0, weight_decay=5e-4
        )
        trained = recogniser.train_recogniser(name, self.train, self.state, schedule)
        log.info("recogniser %s: %s", name, recogniser.verify(trained, self.test, CLIPS_PER_TEST_PERSON))
        return trained

    @cached_property
    def metric_recogniser(self) -> Recogniser:
        """Recogniser "b"."""
        return self.recogniser("b")

    @cached_property
    def reader(self) -> Reader:
        """The reader of attributes and poses."""
        schedule = self._schedule("reader", 2e-3, 128, flat_share=0.3, ema_decay=0.0)
        trained = reader.train_reader(self.train, self.state, schedule)
        clip = torch.arange(self.test.num_clips, device=self.device)
        frames = self.test.pictures(clip, clip % self.test.num_frames)
        accuracy = reader.attribute_accuracy(trained, frames, self.test.scene.attributes)
        log.info("reader: attributes read right %s", accuracy)
        return trained

    @cached_property
    def action_reader(self) -> ActionReader:
        """The reader of actions."""
        schedule = self._schedule("action_reader", 2e-3, 128, ema_decay=0.99)
        trained = reader.train_action_reader(self.reader, self.train, self.state, schedule)
        clips = self.test.clips(torch.arange(self.test.num_clips, device=self.device))
        accuracy = reader.action_accuracy(self.reader, trained, clips, self.test.scene.attributes.action)
        log.info("action reader: %.3f of actions read right", accuracy)
        return trained

    @cached_property
    def detector(self) -> Detector:
        """The face detector."""
        schedule = self._schedule("detector", 2e-3, 128, flat_share=0.3, ema_decay=0.0)
        trained = reader.train_detector(self.train, self.state, schedule)
        log.info("detector: landmarks off by %.2f px of 32", reader.landmark_error_px(trained, self.test))
        return trained

    @cached_property
    def judges(self) -> Judges:
        """Everything that measures."""
        return Judges(self.detector, self.metric_recogniser, self.reader, self.action_reader)

    @cached_property
    def vision(self) -> ClipFaceEncoder:
        """The reference encoder."""
        schedule = self._schedule("vision", 1.5e-3, 64, flat_share=0.4, ema_decay=0.995)
        trained = vision.train_vision_model(self.train, self.state, schedule)
        r2 = vision.identity_r2(trained, self.train, self.test)
        log.info("reference encoder: mean R² %.3f %s", sum(r2.values()) / len(r2), r2)
        return ClipFaceEncoder(trained.encoder).to(self.device)

    @cached_property
    def image_model(self) -> backbone.ImageModel:
        """The text-to-picture model."""
        return backbone.train_image_model(self.train, self.encode, self.state, self._schedule("backbone", 1.6e-3, 64))

    @cached_property
    def unet(self) -> UNetMotionModel:
        """The text-to-video UNet."""
        return motion.train_motion(
            self.image_model, self.train, self.encode, self.state, self._schedule("motion", 1.5e-3, 8)
        )

    @cached_property
    def backbone(self) -> AnimateDiffBackbone:
        """The text-to-video model."""
        image = self.image_model
        return AnimateDiffBackbone(self.unet, self.codec, image.text_encoder, image.tokenizer, build_scheduler())

    @cached_property
    def adapter(self) -> FaceAdapter:
        """The image-prompt adapter."""
        image = self.image_model
        still = AnimateDiffBackbone(
            build_motion_unet(image.unet), self.codec, image.text_encoder, image.tokenizer, build_scheduler()
        )
        trained = adapter.build_adapter(still, self.vision).to(self.device)
        loss = adapter.PictureLoss(image, trained, self.train, self.encode, self.recogniser("a"))
        teacher = adapter.train_teacher(loss, trained, self.state, self._schedule("teacher", 2e-3, 64, ema_decay=0.99))
        schedule = self._schedule("resampler", 1e-3, 64, flat_share=0.3, ema_decay=0.99)
        adapter.distil_resampler(teacher, self.vision, trained, self.train, self.state, schedule)
        schedule = self._schedule("attention", 2e-3, 64, flat_share=0.3, ema_decay=0.99)
        adapter.train_attention(loss, self.vision, trained, self.state, schedule)
        schedule = self._schedule("adapter", 4e-4, 64, flat_share=0.3, ema_decay=0.99)
        adapter.train_adapter(loss, self.vision, trained, self.state, schedule)
        schedule = self._schedule("adapter_clips", 4e-4, 8, flat_share=0.3, ema_decay=0.99)
        on_clips = adapter_clips.ClipLoss(
            image, self.unet, trained, self.train, self.encode, self.recogniser("a"), schedule.local_batch_size
        )
        adapter_clips.train_on_clips(on_clips, self.vision, trained, self.state, schedule)
        return trained.requires_grad_(False).eval()

    def measure(self) -> None:
        """Measure the gates of pictures, clips and the adapter on held-out people, and draw what was measured."""
        num_people = self.plan.test_people
        retained = codec_retention(self.judges, self.codec, self.test, CLIPS_PER_TEST_PERSON)
        log.info("codec: keeps %.3f of the similarity between clips of a person, n %d", retained, num_people)
        trial = make_trial(self.test, num_people, CLIPS_PER_TEST_PERSON, seed=1)
        some = trial.first(num_people // 2)
        plain = gates.gate_pictures(self.judges, self.image_model, self.codec, trial)
        gates.gate_clips(self.judges, self.image_model, self.unet, self.codec, some)
        trained = self.adapter
        tokens = gates.reference_tokens(self.vision, trained, trial)
        log.info("adapter: token share %.3f", gates.token_share(tokens[0]))
        drawn = gates.gate_adapter(self.judges, self.image_model, self.codec, trained, tokens, trial)
        perfect = autoencoder.decode(self.codec, autoencoder.encode(self.codec, trial.renders))
        gates.save_grid(self.folder / "grid.png", [trial.references, *drawn.values(), perfect, plain])
        trained.attach(self.backbone)
        some_tokens = (tokens[0][: len(some.references)], tokens[1])
        gates.gate_clips(self.judges, self.image_model, self.unet, self.codec, some, some_tokens)

    def write(self) -> None:
        """Write all weights."""
        faces, readers = self.output / "faces", self.output / "readers"
        weights.save_network(self.detector, faces / "detector.safetensors")
        first = self.recogniser("a")
        weights.save_network(first, faces / "recogniser_a.safetensors")
        export_recogniser(first.cpu(), faces / "recogniser_a.onnx")
        weights.save_network(self.metric_recogniser, faces / "recogniser_b.safetensors")
        weights.save_network(self.reader, readers / "reader.safetensors")
        weights.save_network(self.action_reader, readers / "action_reader.safetensors")
        state = {key: value.half().cpu() for key, value in self.adapter.state_dict().items()}
        # As train.py stores it, so that every program knows which models it belongs to.
        write_adapter(self.output / "adapter.safetensors", state, {"choices": {"backbone": "toy"}, "values": {}})
        image = self.image_model
        folder = self.output / "backbone"
        weights.save_backbone(folder, self.unet, self.codec, image.text_encoder, image.tokenizer, build_scheduler())
        weights.save_image_encoder(self.output / "image_encoder", self.vision.vision_model)
        stranger = film(2, 1, 8, 128, seed=LARGEST_TRAINING_SEED + 500)[1]
        Image.fromarray(stranger.frames[0]).save(self.output / "face.png")


STAGES: dict[str, Callable[[Workshop], object]] = {
    "corpus": lambda workshop: (workshop.train, workshop.test),
    "autoencoder": lambda workshop: workshop.codec,
    "faces": lambda workshop: (workshop.recogniser("a"), workshop.metric_recogniser, workshop.detector),
    "readers": lambda workshop: workshop.action_reader,
    "vision": lambda workshop: workshop.vision,
    "backbone": lambda workshop: workshop.image_model,
    "motion": lambda workshop: workshop.unet,
    "adapter": lambda workshop: workshop.adapter,
    "gates": lambda workshop: workshop.measure(),
    "write": lambda workshop: workshop.write(),
}
"""Stages by name. Each makes what it needs and is not there yet; "write" makes everything."""

SHARED_STAGES = {"corpus", "backbone", "motion"}
"""Stages that several processes can share the batches of, under torchrun."""


def main() -> None:
    """Run stages from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="training states and results; goes on where it stopped")
    parser.add_argument("stages", nargs="*", default=["write"], help=f"of {', '.join(STAGES)}; default: write")
    parser.add_argument("--plan", choices=PLANS, default="cpu", help="how long to train, and in how large batches")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="train every stage so briefly, to see that it runs")
    parser.add_argument("--people", type=int, default=64, help="with --steps: people to train on")
    parser.add_argument("--set", nargs="*", default=[], metavar="STAGE=STEPS", help="train a stage for so many steps")
    arguments = parser.parse_intermixed_args()
    unknown = sorted(set(arguments.stages) - STAGES.keys())
    if unknown:
        parser.error(f"unknown stages {', '.join(unknown)}; there are {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU
    torch.backends.cudnn.allow_tf32 = True
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo", timeout=timedelta(hours=2))
        if dist.get_rank() > 0:
            logging.disable()
        alone = sorted(set(arguments.stages) - SHARED_STAGES)
        if alone:
            parser.error(f"{', '.join(alone)}: only {', '.join(sorted(SHARED_STAGES))} can be shared by processes")
    plan = PLANS[arguments.plan]
    if arguments.steps is not None:
        plan = plan.shortened(arguments.steps, arguments.people)
    odd = [change for change in arguments.set if "=" not in change]
    if odd:
        parser.error(f"--set wants STAGE=STEPS, not {', '.join(odd)}; name the stages to run before --set")
    changes = dict(change.split("=", 1) for change in arguments.set)
    unknown = sorted(changes.keys() - Plan.__dataclass_fields__.keys())
    if unknown:
        parser.error(f"--set knows no {', '.join(unknown)}; there are {', '.join(Plan.__dataclass_fields__)}")
    plan = replace(plan, **{name: int(value) for name, value in changes.items()})
    workshop = Workshop(arguments.folder, plan, arguments.device)
    if dist.is_initialized() and dist.get_rank() > 0:
        dist.barrier()  # until the first process has rendered what is missing
    STAGES["corpus"](workshop)
    if dist.is_initialized() and dist.get_rank() == 0:
        dist.barrier()
    for stage in arguments.stages:
        STAGES[stage](workshop)


if __name__ == "__main__":
    main()
