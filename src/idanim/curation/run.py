"""Runs a curator over many videos: resumes, survives bad files and dying processes, on any engine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import av
import torch
from tqdm import tqdm

from idanim.curation.decision import Decision
from idanim.curation.dispatch import Engine, GivenUp
from idanim.curation.pipeline import Curator
from idanim.curation.results import Result, ResultStore
from idanim.curation.sources import SourceVideo
from idanim.curation.witness import Witness
from idanim.data.sample import ClipSample
from idanim.types import IdanimError
from idanim.video import UnusableVideoError

# What decoding and array code raise on input they were not made for: a bad video must not end a run over thousands.
# Anything else is a mistake of ours and does end it. Writing results happens outside, so a full disk ends it too.
_VIDEO_ERRORS = (OSError, ValueError, ArithmeticError, IndexError, av.FFmpegError)


def curate_one(curator: Curator, video: SourceVideo) -> ClipSample | Decision:
    """The sample of one video, or the reason why there is none; never an error of the video's making.

    Raises:
        IdanimError: something is wrong with the settings, and would be with every video.
    """
    try:
        return curator.curate(video)
    except UnusableVideoError as error:
        return Decision(video.name, video.key, error.reason, str(error), error.measured, error.threshold)
    except IdanimError:
        raise  # a ValueError, but told in words and not of the video's making
    except _VIDEO_ERRORS as error:
        return Decision(video.name, video.key, "internal_error", f"{type(error).__name__}: {error}")


def curate_all(
    engine: Engine, make_curator: Callable[[], Curator], videos: Sequence[SourceVideo], store: ResultStore
) -> list[Result]:
    """Curate what has no result yet, with a progress bar.

    Args:
        engine: runs the work. The results do not depend on it, nor on how many workers it has.
        make_curator: builds the curator in each worker; must pickle.
        videos: what to curate.
        store: finds finished videos and keeps new ones.

    Returns:
        One result a video, in the order of `videos`.

    Raises:
        OSError: results can't be written. Those written before stay.
        IdanimError: wrong settings, or workers can't be started.
    """
    results = {video.name: found for video in videos if (found := store.find(video))}
    missing = [video for video in videos if video.name not in results]
    with tqdm(total=len(videos), initial=len(results), desc="curate", unit="video") as bar:
        accepted = sum(result.decision.accepted for result in results.values())
        bar.set_postfix(accepted=accepted)
        for video, outcome in engine.map(functools.partial(_make_work, make_curator, store), missing):
            result = _gave_up(video, outcome, store) if isinstance(outcome, GivenUp) else outcome
            results[video.name] = result
            accepted += result.decision.accepted
            bar.set_postfix(accepted=accepted, refresh=False)
            bar.update()
    return [results[video.name] for video in videos]


def _make_work(make_curator: Callable[[], Curator], store: ResultStore) -> Callable[[SourceVideo], Result]:
    # One thread each: workers share the cores, and sums of several threads may differ in the last bit.
    torch.set_num_threads(1)
    curator = make_curator()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    return functools.partial(_curate_and_save, curator, store)


def _curate_and_save(curator: Curator, store: ResultStore, video: SourceVideo) -> Result:
    stem = store.stem(video)  # before it is read: a video that is still being copied is done again next time
    witness = Witness(curator.engine)
    outcome = curate_one(replace(curator, engine=witness), video)
    return store.save(stem, video, outcome, witness.picture() if isinstance(outcome, Decision) else None)


def _gave_up(video: SourceVideo, why: GivenUp, store: ResultStore) -> Result:
    decision = Decision(video.name, video.key, why.reason, why.text, why.measured, why.threshold)
    return store.save(store.stem(video), video, decision)
