"""Makes videos for pages: one model for all of them, a folder and results for each page alone."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Lock
from typing import Any

import numpy as np
import torch

from idanim.config import CONF_DIR, Run, restore
from idanim.files import write_bytes, write_json
from idanim.generated_video import GeneratedVideo
from idanim.generation.control import SparseControl
from idanim.generation.output import mp4_bytes
from idanim.generator import CancelledError, Generator, Person, Progress
from idanim.metrics.face_track import FaceTrack, track_faces
from idanim.metrics.identity import face_similarity
from idanim.types import IdanimError
from idanim.web.form import ONE, Form, Limits

SCORED_FRAMES = 16
MEMORY_PRESETS = tuple(sorted(path.stem for path in (CONF_DIR / "memory").glob("*.yaml")))
TOLD = (
    *("checkpoint", "references", "reference_size_px", "face_engine", "scale", "sampling", "weights", "notes"),
    *("versions", "device", "dtype", "memory", "git_sha"),
)
"""What of a video's record goes to the page: nothing that names a path of this machine."""

OnStep = Callable[[int, int, Progress], None]
"""Called with the number of the video from 0, how many there will be, and how far it is."""


@dataclass(frozen=True)
class Result:
    """One finished video.

    Attributes:
        path: of the mp4; a json lies beside it.
        identity: whom it shows.
        prompt: what it shows.
        seed: of the initial noise.
        similarities: person → similarity of the video to the person's photos, see `idanim.metrics.identity`.
        num_faces: frames in which a face was found.
        num_frames: frames in which one was looked for.
        engine: what found and compared faces.
        notes: what the user should know, in words.
    """

    path: Path
    identity: str
    prompt: str
    seed: int
    similarities: dict[str, float]
    num_faces: int
    num_frames: int
    engine: str
    notes: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The scores in one line."""
        scores = ", ".join(f"{name} {value:.2f}" for name, value in self.similarities.items())
        return f"similarity to {scores} · face in {self.num_faces} of {self.num_frames} frames · seed {self.seed}"


@dataclass
class Session:
    """What belongs to one open page: its files, its results, and whether it was told to stop."""

    folder: Path
    stop: Event = field(default_factory=Event)
    results: list[Result] = field(default_factory=list)
    used_s: float = field(default_factory=time.monotonic)
    is_closed: bool = False


class Studio:
    """One generator, which makes one video at a time, and the sessions of all open pages.

    Args:
        run: of `conf/generate.yaml`.
        limits: what a request may ask for.
        root: folder for the files of all sessions.
    """

    def __init__(self, run: Run, limits: Limits, root: Path) -> None:
        self.limits = limits
        self._run, self._root = run, root
        self._memory = {
            name: restore("generate", {"choices": {"memory": name}, "values": {}})["memory"] for name in MEMORY_PRESETS
        }
        self._generator: Generator | None = Generator(run)
        self._at_work, self._sessions_change = Lock(), Lock()
        self._sessions: dict[str, Session] = {}
        self._waiting: set[str] = set()

    @property
    def generator(self) -> Generator:
        """The models that are loaded; those of the command line where loading others failed."""
        if self._generator is None:
            self._generator = Generator(self._run)
        return self._generator

    # ------------------------------------------------------------------------------------------- sessions

    def session(self, key: str) -> Session:
        """The session of a page; those that did nothing for long are closed."""
        with self._sessions_change:
            now = time.monotonic()
            for name, session in list(self._sessions.items()):
                if name != key and now - session.used_s > self.limits.idle_s:
                    self._waiting.discard(name)
                    _end(self._sessions.pop(name))
            if key not in self._sessions:
                self._sessions[key] = Session(Path(mkdtemp(dir=self._root)))
            self._sessions[key].used_s = now
            return self._sessions[key]

    def begin(self, key: str) -> None:
        """Take a place in the queue, and forget an earlier `stop`.

        Raises:
            IdanimError: the queue is full.
        """
        session = self.session(key)
        with self._sessions_change:
            waiting = len(self._waiting - {key})
            if waiting >= self.limits.queue:
                requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
                raise IdanimError(f"the queue is full: {requests}; try again in a while")
            self._waiting.add(key)
            session.stop = Event()

    def start(self, key: str) -> Session:
        """The session of a page, whose turn it is now.

        Raises:
            IdanimError: the page was closed while it waited, so that nobody would see the video.
        """
        with self._sessions_change:
            self._waiting.discard(key)
            if key not in self._sessions:
                raise IdanimError("this page was closed, or did nothing for long: open it again")
            self._sessions[key].used_s = time.monotonic()
            return self._sessions[key]

    def stop(self, key: str) -> None:
        """End the session's work after its step; where it still waits, as soon as its turn comes."""
        self.session(key).stop.set()

    def close(self, key: str) -> None:
        """End a session's work and delete its files."""
        with self._sessions_change:
            session = self._sessions.pop(key, None)
            self._waiting.discard(key)
        if session is not None:
            _end(session)

    # --------------------------------------------------------------------------------------------- videos

    def make(self, form: Form, session: Session, on_step: OnStep) -> Iterator[Result]:
        """Make the videos of a form one after the other, and add each to the session.

        Raises:
            IdanimError: something doesn't fit; the text says what to do and names no folder of this machine.
            CancelledError: the session was told to stop.
        """
        try:
            yield from self._make(form, session, on_step)
        except IdanimError as error:
            raise IdanimError(_without_folders(str(error), (*form.photos, *form.control_images))) from error
        finally:
            if session.is_closed:  # perhaps while the last video was written
                shutil.rmtree(session.folder, ignore_errors=True)

    def _make(self, form: Form, session: Session, on_step: OnStep) -> Iterator[Result]:
        stop = session.stop
        form.check(self.limits)
        jobs = [(weights, seed) for weights in form.mixtures() for seed in form.seed_list()]
        with self._at_work:
            _stop_if(stop)
            generator = self._with_memory(form.memory)
            people, control = _people(generator, form), _control(generator, form)
        for number, (weights, seed) in enumerate(jobs):

            def tell(progress: Progress, number: int = number) -> None:
                session.used_s = time.monotonic()
                on_step(number, len(jobs), progress)

            with self._at_work:  # not while it is yielded, when nobody may ask for the next
                _stop_if(stop)
                person = generator.mixture(people, weights) if weights else people[0]
                video = generator.generate(person, form.prompt, seed, control, tell, stop.is_set, **form.settings())
                _stop_if(stop)
                session.results.append(_write(session, video, generator, people))
            yield session.results[-1]

    def _with_memory(self, preset: str) -> Generator:
        """The generator, loaded again where another memory preset is asked for."""
        if preset not in self._memory:
            raise IdanimError(f"memory: {preset!r}, expected one of {', '.join(self._memory)}")
        if preset != (self._generator.memory if self._generator else None):
            config = {**self._run.config, "memory": self._memory[preset]}
            run = replace(self._run, config=config, choices={**self._run.choices, "memory": preset})
            self._generator = None  # or there would be two sets of models for a while
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._generator = Generator(run)
        return self.generator


def _end(session: Session) -> None:
    session.is_closed = True
    session.stop.set()
    shutil.rmtree(session.folder, ignore_errors=True)


def _stop_if(stop: Event) -> None:
    if stop.is_set():
        raise CancelledError("stopped")


def _people(generator: Generator, form: Form) -> list[Person]:
    index = None if form.face_index is None else int(form.face_index)
    groups = [form.photos] if form.use == ONE else [(photo,) for photo in form.photos]
    return [generator.person(*group, face_index=index) for group in groups]


def _control(generator: Generator, form: Form) -> SparseControl | None:
    if not form.control_images:
        return None
    scale = 1.0 if form.control_scale is None else form.control_scale
    return generator.control(form.control_images, form.control_frame_list(), scale, form.control_context)


def _write(session: Session, video: GeneratedVideo, generator: Generator, people: Sequence[Person]) -> Result:
    """Score the video, and write it with a json of what it was made from."""
    track = track_faces(generator.engine, video.clip.frames, SCORED_FRAMES)
    record = video.record
    result = Result(
        path=session.folder / f"video_{len(session.results) + 1:03d}_seed_{record.seed}.mp4",
        identity=record.identity,
        prompt=record.prompt,
        seed=record.seed,
        similarities=similarities(track, people),
        num_faces=int(track.found.sum()),
        num_frames=len(track.found),
        engine=generator.engine.name,
        notes=tuple(record.made_with["notes"]),
    )
    write_bytes(result.path, mp4_bytes(video.clip, video.statement))
    write_json(result.path.with_suffix(".json"), told(result, record.made_with))
    return result


def similarities(track: FaceTrack, people: Sequence[Person]) -> dict[str, float]:
    """Similarity of a video to each person's photos, by name; people of one name are numbered."""
    names = [person.name for person in people]
    named = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    return {
        name: face_similarity(track, np.stack([face.vector for face in person.faces]))
        for name, person in zip(named, people, strict=True)
    }


def told(result: Result, made_with: dict[str, Any]) -> dict[str, Any]:
    """What the json beside a video says."""
    about = {key: value for key, value in asdict(result).items() if key not in ("path", "notes")}
    return {**about, "made_with": {key: made_with[key] for key in TOLD}}


def _without_folders(text: str, files: Sequence[Path]) -> str:
    """The text with nothing but the names of uploaded files."""
    for file in files:
        text = text.replace(f"{file.resolve().parent}/", "").replace(f"{file.parent}/", "")
    return text
