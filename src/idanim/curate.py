"""Make clip shards from a folder of videos: `python -m idanim.curate input=<videos> output=<folder>`.

`python -m idanim.curate inspect <shard or folder>` shows what shards hold.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idanim import inspect_shards
from idanim.captioning.answers import AnswerStore
from idanim.captioning.captioner import Captioner
from idanim.captioning.model import CaptionModel
from idanim.config import Run, build, program
from idanim.curation.captions import caption_all, caption_summary
from idanim.curation.claim import claim
from idanim.curation.cut import Clip
from idanim.curation.dispatch import Engine
from idanim.curation.face_pool import FacePool
from idanim.curation.filters import FaceFilter, MotionFilter
from idanim.curation.inputs import find_clips
from idanim.curation.link import Linker
from idanim.curation.pack import Packing, ShardPlan, write_shards
from idanim.curation.people import People, name_people
from idanim.curation.pipeline import Curator
from idanim.curation.report import terminal_table, write_report
from idanim.curation.report_page import write_page
from idanim.curation.results import AWAY, Result, ResultStore
from idanim.curation.run import curate_all
from idanim.curation.scan import FrameSampling
from idanim.curation.scenes import Scenes
from idanim.curation.sources import IdentityNames
from idanim.curation.track import Tracker
from idanim.data.sample import CAPTION_KINDS, CaptionKind
from idanim.types import IdanimError

_RESULT_KEYS = ("faces", "seed", "sampling", "scenes", "track", "filter", "face_pool", "clip", "identity")
_PLACE_KEYS = ("root", "threads")  # of `faces`: where and how fast, not what


def make_curator(config: dict[str, Any]) -> Curator:
    """Build the curator that a configuration describes."""
    return Curator(
        engine=build(config["faces"]),
        sampling=FrameSampling(**config["sampling"]),
        scenes=Scenes(**config["scenes"]),
        tracker=Tracker(**config["track"]),
        face_filter=FaceFilter(**_without(config["filter"], ("min_motion",))),
        motion_filter=MotionFilter(config["filter"]["min_motion"]),
        face_pool=FacePool(**config["face_pool"] | {"choice": build(config["face_pool"]["choice"])}),
        clip=Clip(**config["clip"]),
        identities=IdentityNames(**config["identity"]),
        seed=config["seed"],
    )


def make_captioner(config: dict[str, Any], answers: Path) -> Captioner:
    """Build the captioner that the node `captions` describes; kinds with equal nodes share one model.

    Args:
        config: the node.
        answers: folder that keeps the models' answers.
    """
    built: list[tuple[dict[str, Any], CaptionModel]] = []
    models: dict[CaptionKind, CaptionModel] = {}
    for kind in CAPTION_KINDS:
        node = config[kind]
        if node is None:
            continue
        model = next((model for other, model in built if other == node), None)
        if model is None:
            model = build(node)
            built.append((node, model))
        models[kind] = model
    settings = {key: config[key] for key in ("prompts", "num_frames", "max_px", "max_words")}
    return Captioner(models, template=config["text"], answers=AnswerStore(answers), **settings)


def curate(run: Run) -> None:
    """Curate all videos, then caption, link and pack the accepted ones.

    Raises:
        IdanimError: no videos, no face models, the output belongs to other videos or can't be written.
    """
    config = run.config
    source = Path(config["input"]).expanduser()
    root = Path(config["videos"]).expanduser() if config["videos"] else None
    videos = find_clips(source, root, config["keep_duplicates"])
    packing = Packing(**config["shards"], seed=config["seed"])
    people: People = build(config["identify"])
    linker = Linker(**config["link"], seed=config["seed"])
    settings = {key: config[key] for key in _RESULT_KEYS}
    captioner = make_captioner(config["captions"], run.output / "work" / "captions")
    workers: Engine = build(config["engine"])
    # Before anything is written: wrong settings fail at once and in words. The workers build their own.
    engine = make_curator(settings).engine.name
    settings_that_count = settings | {"faces": _without(config["faces"], _PLACE_KEYS) | {"name": engine}}
    store = ResultStore(run.output / "work" / "videos", settings_that_count)
    try:
        claim(run.output, source, config["replace"])
        results = curate_all(workers, functools.partial(make_curator, settings), videos, store)
        named = name_people((result for result in results if result.decision.accepted), videos, people)
        _keep_old_shards(run.output, results, config["replace"])
        accepted = caption_all(captioner, named)
        plans = write_shards(run.output, accepted, packing, linker)
        leaks = linker.find_leaks(_of_split("train", plans, accepted), _of_split("val", plans, accepted))
        decisions = [result.decision for result in results]
        captions = caption_summary(accepted)
        write_report(run.output, decisions, plans, leaks, engine, captions)
        by_file = {result.path: result for result in accepted}  # named and captioned
        write_page(run.output, [by_file.get(result.path, result) for result in results], engine)
        store.remove_others(results)
        for pattern in (".*.part*", "work/.*.part*", "work/captions/*/.*.part*"):
            for leftover in run.output.glob(pattern):  # of a killed run
                leftover.unlink()
    except OSError as error:
        raise IdanimError(
            f"can't write to {error.filename or run.output}: {error.strerror or error}. Finished videos are kept: "
            "make room and give the same command again"
        ) from error
    print(terminal_table(decisions, leaks, captions))
    print(f"{run.output / 'report.html'}  {sum(len(plan.keys) for plan in plans)} clips in {len(plans)} shards")


def _keep_old_shards(output: Path, results: Sequence[Result], replace: bool) -> None:
    """Refuse to put an empty dataset in the place of one that is there.

    Raises:
        IdanimError: no video was accepted, and there are shards; perhaps the videos' disk is not there.
    """
    if replace or any(result.decision.accepted for result in results):
        return
    if any(output.glob("train-*.tar")) or any(output.glob("val-*.tar")):
        away = sum(result.decision.reason in AWAY for result in results)
        raise IdanimError(
            f"none of the {len(results)} videos was accepted, {away} of them are missing or can't be read; "
            f"the shards in {output} are left as they are. If they may go: replace=true"
        )


def _of_split(split: str, plans: Sequence[ShardPlan], accepted: Sequence[Result]) -> list[Result]:
    keys = {key for plan in plans if plan.split == split for key in plan.keys}
    return [result for result in accepted if result.decision.key in keys]


def _without(node: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


_curate_program = program("curate")(curate)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["inspect"]:
        inspect_shards.main(sys.argv[2:])
    else:
        _curate_program()


if __name__ == "__main__":
    main()
