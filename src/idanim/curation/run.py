"""Runs a curator over many videos: resumes, survives bad files, uses several processes when asked to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import av
from tqdm import tqdm

from idanim.curation.decision import Decision
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
    curator: Curator,
    make_curator: Callable[[], Curator],
    videos: Sequence[SourceVideo],
    store: ResultStore,
    workers: int,
) -> list[Result]:
    """Curate what has no result yet, with a progress bar.

    Args:
        curator: does the work in this process.
        make_curator: builds the same one in each worker process; must pickle.
        videos: what to curate.
        store: finds finished videos and keeps new ones.
        workers: processes. The results do not depend on it.

    Returns:
        One result a video, in the order of `videos`.

    Raises:
        OSError: results can't be written. Those written before stay.
        IdanimError: wrong settings, or a worker process was killed, for instance for lack of memory.
    """
    results: dict[str, Result] = {}
    missing = []
    for video in videos:
        found = store.find(video)
        if found:
            results[video.name] = found
        else:
            missing.append(video)
    with tqdm(total=len(videos), initial=len(results), desc="curate", unit="video") as bar:
        accepted = sum(result.decision.accepted for result in results.values())
        bar.set_postfix(accepted=accepted)
        if workers > 1 and len(missing) > 1:
            fresh = _in_processes(make_curator, missing, store, workers)
        else:
            fresh = (_curate_and_save(curator, video, store) for video in missing)
        for result in fresh:
            results[result.decision.source] = result
            accepted += result.decision.accepted
            bar.set_postfix(accepted=accepted, refresh=False)
            bar.update()
    return [results[video.name] for video in videos]


def _curate_and_save(curator: Curator, video: SourceVideo, store: ResultStore) -> Result:
    stem = store.stem(video)  # before it is read: a video that is still being copied is done again next time
    witness = Witness(curator.engine)
    outcome = curate_one(replace(curator, engine=witness), video)
    return store.save(stem, video, outcome, witness.picture() if isinstance(outcome, Decision) else None)


_worker: tuple[Curator, ResultStore] | None = None  # of a worker process; set once, when it starts


def _start_worker(make_curator: Callable[[], Curator], store: ResultStore) -> None:
    global _worker
    _worker = (make_curator(), store)


def _work(video: SourceVideo) -> Result:
    assert _worker is not None
    curator, store = _worker
    return _curate_and_save(curator, video, store)


def _in_processes(
    make_curator: Callable[[], Curator], videos: Sequence[SourceVideo], store: ResultStore, workers: int
) -> Iterator[Result]:
    # Spawned, not forked: the libraries of the parent have threads, which a forked child would inherit half-alive.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(videos)), context, _start_worker, (make_curator, store))
    try:
        for future in as_completed([pool.submit(_work, video) for video in videos]):
            yield future.result()
    except BrokenProcessPool as error:
        text = "a worker process was killed, perhaps for lack of memory; finished videos are kept: run again, "
        raise IdanimError(text + "with fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
