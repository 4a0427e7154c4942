"""The Python interface of generation, which the command and other programs stand on.

generator = Generator.load("faces=insightface", "ckpt=animator.ckpt", "backbone=public")
ada = generator.person("ada.jpg")
video = generator.generate(ada, "a woman on a beach", seed=1)
video.save("ada.mp4")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from idanim.assembly import (
    attach_identity_guidance,
    chosen_settings,
    guide_file,
    load_sampler,
    loading_device,
    pick_device,
    sampling_overrides,
    save_memory,
    training_config,
    warn_of_settings_left,
)
from idanim.config import Run, build, built_or_plain, compose
from idanim.faces.engine import FaceEngine
from idanim.generated_video import GeneratedVideo
from idanim.generation.control import SparseControl
from idanim.generation.identity import IdTokens, check_weights, mix
from idanim.generation.output import provenance
from idanim.generation.prompt_notes import prompt_notes
from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.generation_inputs import control_images, existing_ckpt, find_person, read_control_images
from idanim.metrics.videos import VideoRecord
from idanim.models.attention_maps import recorded_attention
from idanim.models.face_id import ArcFaceEncoder, ClipArcFaceEncoder
from idanim.recipe import hashes_of, recipe_of, short_names, versions
from idanim.reference_faces import ReferenceFace, ReferencePerson
from idanim.toyworld.shipped import is_shipped
from idanim.trained_judge import as_stored, used_recognisers
from idanim.types import IdanimError

SYSTEM = "adapter"
ALIASES = {"reference": "references", "weights=[": "mix"}
"""Hydra gives no key the name of a config group, and `weights` is the folder of public files unless it's a list."""


TOY_NOTE = (
    "the toy world's models are in use, which know only its own drawn people; for photos of real ones take "
    "faces=insightface, and ckpt= of an adapter with its backbone, for instance backbone=public"
)


class Progress(NamedTuple):
    """How far a video is: steps done, of so many."""

    step: int
    num_steps: int


class CancelledError(Exception):
    """Generation was stopped between two steps, because `should_stop` said so."""


@dataclass(frozen=True)
class Person:
    """Whom a video shall show.

    Attributes:
        name: the person's, or those of the mixed ones with their weights.
        tokens: what the backbone attends to; computed once for all videos.
        faces: the face crops they are made of.
        notes: what the user should know of the photos, in words.
        sources: the photos, folders or videos of each identity: one for a person, several for a mixture.
        face_indices: which face of a picture, for each identity.
        files: every file that was read.
        weights: of each identity in a mixture; () for one person.
    """

    name: str
    tokens: IdTokens
    faces: tuple[ReferenceFace, ...]
    notes: tuple[str, ...]
    sources: tuple[tuple[Path, ...], ...]
    face_indices: tuple[int | None, ...]
    files: tuple[Path, ...]
    weights: tuple[float, ...] = ()


class Generator:
    """Models that are loaded once and make any number of videos.

    Args:
        run: configuration of `conf/generate.yaml`; what to show in it counts nothing here.
        engine: the one of `run`, if it is built already.

    Raises:
        IdanimError: a file is missing or doesn't fit; the text says what to do.
    """

    def __init__(self, run: Run, engine: FaceEngine | None = None) -> None:
        self.run = run
        config = run.config
        self.ckpt = existing_ckpt(config)
        self.engine: FaceEngine = build(config["faces"]) if engine is None else engine
        self.memory = run.choices.get("memory", "full")
        with self._memory_told():
            self.sampler, self.trained, self.settings = _load(config, self.ckpt)
            self._network = _control_network(config["control"]["model"], self.sampler)
            attach_identity_guidance(self.sampler, self.trained, self.engine, self.settings, config["memory"])
        self.sampler.check(self.settings)
        self._hashes: dict[str, str] = {}

    @classmethod
    def load(cls, *arguments: str) -> Generator:
        """Load by what the command line would say, for instance "backbone=public"; without any, the toy world."""
        return cls(compose("generate", arguments, ALIASES))

    def person(self, *sources: str | Path, face_index: int | None = None) -> Person:
        """A person from photos, folders of photos or videos; the id tokens of all pictures are averaged.

        Args:
            sources: files and folders.
            face_index: which face of a picture, by falling size; None = the largest.

        Raises:
            IdanimError: a file is missing or can't be read, or no face is found.
        """
        return self.person_of(find_person(sources, self.engine, self.run.config, face_index))

    def person_of(self, found: ReferencePerson) -> Person:
        """A person from faces that were found already, see `find_person`."""
        notes = [*found.notes, *found.small_faces(self.sampler.encoder.image_size // 2), *self._toy_note(found)]
        with self._memory_told():
            tokens = self.sampler.id_tokens([face.crop for face in found.faces])
        return Person(found.name, tokens, found.faces, tuple(notes), (found.sources,), (found.face_index,), found.files)

    def _toy_note(self, found: ReferencePerson) -> list[str]:
        """That the toy world is no place for real people; its detector often takes their faces for its own."""
        path = str(built_or_plain(self.trained["backbone"]["model"].get("path", "")))
        return [TOY_NOTE] if is_shipped(path) and not all(is_shipped(str(file)) for file in found.files) else []

    def mixture(self, people: Sequence[Person], weights: Sequence[float]) -> Person:
        """A person who does not exist: the weighted average of others (paper, Fig. 8).

        Raises:
            IdanimError: weights that are negative, don't sum to 1, or are not one a person.
        """
        check_weights(weights, len(people))
        if any(person.weights for person in people):
            raise IdanimError("a mixture can't be mixed again; mix its people with their final weights")
        if self.sampler.adapter.concatenates:
            raise IdanimError("weights=: the tokens of this adapter stand side by side and can't be mixed")
        return Person(
            name="+".join(f"{person.name}_{weight:.2f}" for person, weight in zip(people, weights, strict=True)),
            tokens=mix([person.tokens for person in people], weights),
            faces=tuple(face for person in people for face in person.faces),
            notes=tuple(note for person in people for note in person.notes),
            sources=tuple(source for person in people for source in person.sources),
            face_indices=tuple(index for person in people for index in person.face_indices),
            files=tuple(file for person in people for file in person.files),
            weights=tuple(float(weight) for weight in weights),
        )

    def control(
        self, images: Iterable[str | Path], frames: Sequence[int], scale: float = 1.0, context: str = "official"
    ) -> SparseControl:
        """Pictures that steer chosen frames; see `SparseControl`. Needs a generator with control=scribble or rgb.

        Raises:
            IdanimError: there is no network, a picture can't be read, or pictures and frames don't fit.
        """
        if self._network is None:
            raise IdanimError("no control network is loaded: take control=scribble or control=rgb")
        pictures = read_control_images(images)
        sources = tuple(str(path.resolve()) for path, _ in pictures)
        shown = tuple(picture for _, picture in pictures)
        result = SparseControl(self._network, shown, tuple(frames), scale, context, sources)
        result.check(self.settings.num_frames)
        return result

    def configured_control(self) -> SparseControl | None:
        """The control that the configuration describes; None without one."""
        values = self.run.config["control"]
        if self._network is None:
            return None
        return self.control(control_images(values), values["frames"], values["scale"], values["context"])

    def generate(
        self,
        person: Person,
        prompt: str,
        seed: int = 0,
        control: SparseControl | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> GeneratedVideo:
        """Make one video; the same arguments give the same bytes on a CPU.

        Args:
            person: of `person` or `mixture`.
            prompt: what to show.
            seed: of the initial noise.
            control: pictures that steer some frames.
            on_progress: called after every step.
            should_stop: asked after every step.
            changes: fields of `SamplingSettings` that replace the configured ones.

        Raises:
            IdanimError: settings that don't fit, or too little memory; the text says what to do.
            CancelledError: `should_stop` said so.
        """
        settings = self.settings_with(**changes)
        if not prompt.strip():
            raise IdanimError("prompt= is empty: say what the video should show")
        done = 0

        def after_step(_latents: Tensor) -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(Progress(done, settings.num_inference_steps))
            if should_stop is not None and should_stop():
                raise CancelledError(f"stopped after {done} of {settings.num_inference_steps} steps")

        with self._memory_told():
            clip = self.sampler.generate_from(person.tokens, prompt, seed, settings, person.name, after_step, control)
        record = self.record(person, prompt, seed, control, **changes)
        return GeneratedVideo(clip, record, self._statement())

    def attention_maps(
        self, person: Person, prompt: str, seed: int = 0, **changes: Any
    ) -> tuple[GeneratedVideo, dict[str, Tensor]]:
        """Make a video and say what it attends to among the id tokens, averaged over heads and steps.

        Args:
            person: see `generate`.
            prompt: see `generate`.
            seed: see `generate`.
            changes: see `generate`.

        Returns:
            The video, and by the name of each layer its map [F, Q, h, w] float32 over latent cells; in every cell the
            Q id tokens sum to 1. Layers have different h and w.
        """
        settings = self.settings_with(**changes)
        with recorded_attention(self.sampler.adapter, settings.num_frames) as recorder:
            video = self.generate(person, prompt, seed, **changes)
        return video, recorder.maps(settings.height, settings.width)

    def settings_with(self, **changes: Any) -> SamplingSettings:
        """The configured settings with some changed.

        Raises:
            IdanimError: an unknown setting, or one that the backbone can't follow.
        """
        unknown = sorted(changes.keys() - asdict(self.settings).keys())
        if unknown:
            raise IdanimError(f"there is no setting {', '.join(unknown)}; known: {', '.join(asdict(self.settings))}")
        settings = replace(self.settings, **changes)
        self.sampler.check(settings)
        return settings

    def prompt_notes(self, prompts: Sequence[str]) -> list[str]:
        """What the model makes nothing of in prompts, in words: what is too long, and what it does not know."""
        return prompt_notes(self.sampler.backbone, prompts)

    def record(
        self, person: Person, prompt: str, seed: int, control: SparseControl | None = None, **changes: Any
    ) -> VideoRecord:
        """What the json of a video says; `made_with.recipe` makes it again."""
        settings = self.settings_with(**changes)
        files = [*person.files, *(Path(source) for source in control.sources)] if control else person.files
        made_with = {
            "checkpoint": self._hash(self.ckpt),
            "references": {name: self._hash(file) for file, name in short_names(person.files).items()},
            "reference_size_px": self.run.config["reference_size_px"],
            "face_engine": self.engine.name,
            "scale": self.sampler.adapter.scale,
            "backbone": self.trained["backbone"],
            "sampling": settings.recorded(),
            "weights": list(person.weights) or None,
            "notes": [*person.notes, *self.prompt_notes([prompt])],
            "recipe": recipe_of(self.run, settings, prompt=prompt, seed=seed, **self._shown(person, control)),
            "files": {str(file.resolve()): self._hash(file) for file in files} | self._weights,
            "versions": versions(),
            "device": self.sampler.device,
            "dtype": str(self.sampler.backbone.dtype).removeprefix("torch."),
            "memory": self.memory,
            "git_sha": self.run.git_sha,
        }
        if self._recognisers:
            made_with["recognisers"] = self._recognisers
        return VideoRecord(prompt, person.name, seed, SYSTEM, made_with=made_with)

    def _shown(self, person: Person, control: SparseControl | None) -> dict[str, Any]:
        """Whom a video shows and what steers it, as keys of the configuration."""
        sources = [[str(source.resolve()) for source in group] for group in person.sources]
        shown: dict[str, Any] = {"references": sources[0], "face_index": person.face_indices[0], "mix": None}
        if person.weights:
            shown = {"references": sources, "face_index": list(person.face_indices), "mix": list(person.weights)}
        values = self.run.config["control"]
        if control is not None:
            steering = {"images": list(control.sources), "frames": list(control.frames)}
            values = {**values, **steering, "scale": control.scale, "context": control.context}
        return {**shown, "control": values}

    def _hash(self, path: Path) -> str:
        key = str(path.resolve())
        if key not in self._hashes:
            self._hashes |= hashes_of([key])
        return self._hashes[key]

    @cached_property
    def _recognisers(self) -> list[dict[str, Any]]:
        """Those with a part in all videos, which may not judge them."""
        guides = self.sampler.identity_guidance is not None
        return as_stored(used_recognisers(self.ckpt, self.trained, guides))

    @cached_property
    def _weights(self) -> dict[str, str]:
        """Every file and folder of weights, and of pictures that control → its hash."""
        trained, used = self.trained, [str(self.ckpt.resolve()), *(str(path.resolve()) for path in self.engine.files)]
        nodes = [trained["backbone"]["model"], trained["encoder"], self.run.config["control"]]
        sees_vectors = isinstance(self.sampler.encoder, ArcFaceEncoder | ClipArcFaceEncoder)
        if sees_vectors or self.sampler.identity_guidance is not None:
            nodes.append({"recogniser": trained["backbone"]["recogniser"]})
        return hashes_of([*used, *nodes])

    def _statement(self) -> str:
        made_by = (
            f"Made by idanim {versions()['idanim']} with the adapter {self.ckpt.name} ({self._hash(self.ckpt)[:16]})"
        )
        return provenance(f"{made_by} on {type(self.sampler.backbone).__name__}")

    @contextmanager
    def _memory_told(self) -> Iterator[None]:
        """Say what to do where memory runs out."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
                raise
            saving = {"full": "memory=balanced or memory=low", "balanced": "memory=low"}.get(self.memory)
            advice = f"take {saving}, or " if saving else ""
            raise IdanimError(
                f"out of memory with memory={self.memory}: {advice}fewer frames (sampling.num_frames) or a smaller "
                "size (sampling.height, sampling.width)"
            ) from error


def _load(config: Mapping[str, Any], ckpt: Path) -> tuple[Sampler, dict[str, Any], SamplingSettings]:
    """The models, the configuration they were built from, and how videos are sampled."""
    device, memory = pick_device(config["device"]), config["memory"]
    home = loading_device(memory, device)
    overrides = sampling_overrides(config)
    planned = training_config(ckpt, overrides, config["backbone"])
    settings = chosen_settings(config, planned)
    warn_of_settings_left(ckpt, config, settings)
    guide_file(settings, planned)
    sampler, trained = load_sampler(ckpt, overrides, home, config["scale"], config["backbone"])
    save_memory(sampler, memory, device)
    return sampler, trained, settings


def _control_network(node: Any, sampler: Sampler) -> Any:
    """The control network where the backbone is, in its type; None without one."""
    if node is None:
        return None
    network = build(node, "control").to(sampler.backbone.dtype)
    return network if sampler.offload_from else network.to(sampler.backbone.device)
