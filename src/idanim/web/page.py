"""The page: its fields, and what its buttons do. Everything else is in `studio.py`."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from idanim.generation.control import CONTEXTS
from idanim.generation.schedulers import SCHEDULER_NAMES
from idanim.generator import CancelledError, Progress
from idanim.reference_faces import MORE_PICTURE_ENDINGS, VIDEO_ENDINGS
from idanim.types import IdanimError
from idanim.web.closed_page import forget
from idanim.web.form import ONE, SWEEP, USES, Form
from idanim.web.start import Start
from idanim.web.studio import MEMORY_PRESETS, Result, Studio

TITLE = "idanim"
NO_CONTROL = "Off: it needs a server that was started with `control=scribble` or `control=rgb`."
ABOUT_SCORES = (
    "Similarity is the cosine between the faces of the frames and those of the photos, by {engine}; a frame without a "
    "face counts 0. Higher is more alike."
)
CSS = ".caption-label {white-space: normal !important; max-width: 100% !important}"


def build_page(studio: Studio, start: Start, prompts: Sequence[str], example_photo: Path | None) -> gr.Blocks:
    """The page, not yet served.

    Args:
        studio: makes the videos.
        start: what the fields hold at first.
        prompts: to click on.
        example_photo: goes with these prompts; None = the photo that is there stays.
    """
    limits = studio.limits
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, limits.idle_s)) as page:
        gr.Markdown(f"# {TITLE}\nPhotos of a face and a prompt → a video of that person. Videos are AI-generated, "
                    "and say so in their files.")  # fmt: skip
        with gr.Row():
            with gr.Column():
                fields = _fields(studio, start)
                _examples(prompts, example_photo, photos=fields[0], prompt=fields[1])
            with gr.Column():
                with gr.Row():
                    make = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop = gr.Button("Stop", elem_id="stop")
                shown = _results(studio.generator.engine.name)
        _connect(studio, page, make, stop, fields, shown)
    return page


def _results(engine: str) -> tuple[Any, Any, Any]:
    """Status, gallery and files."""
    status = gr.Markdown("", elem_id="status")
    gallery = gr.Gallery(
        label="Videos of this page",
        columns=3,
        fit_columns=False,
        object_fit="contain",
        elem_id="gallery",
        buttons=["download"],
    )
    gr.Markdown(ABOUT_SCORES.format(engine=engine))
    return status, gallery, gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")


def _connect(
    studio: Studio, page: gr.Blocks, make: Any, stop: Any, fields: Sequence[Any], shown: tuple[Any, Any, Any]
) -> None:
    """Say what the buttons do, and what closing the page does."""

    def run(request: gr.Request, *values: Any, progress: Any = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        yield from generate(studio, str(request.session_hash), values, progress)

    def begin(request: gr.Request) -> str:
        try:
            studio.begin(str(request.session_hash))
        except IdanimError as error:
            raise _told(error) from error
        return "Waiting for its turn …"

    def end(request: gr.Request) -> None:
        studio.stop(str(request.session_hash))

    def leave(request: gr.Request) -> None:
        studio.close(str(request.session_hash))

    async def forget_page(request: gr.Request) -> None:
        await forget(page, str(request.session_hash))

    status, gallery, _ = shown
    private: Any = {"api_visibility": "private"}
    # In Gradio's queue, or an error would not come up.
    begun = make.click(begin, outputs=status, show_progress="hidden", concurrency_limit=None, **private)
    begun.success(run, fields, list(shown), show_progress_on=gallery, concurrency_limit=1, **private)
    # Said in the browser: an answer of the server's could come after what the end of the work says, and replace it.
    stop.click(None, outputs=status, js="() => 'Stops after this step …'", **private)
    stop.click(end, show_progress="hidden", queue=False, **private)
    page.unload(leave)
    page.unload(forget_page)


def generate(studio: Studio, key: str, values: Sequence[Any], progress: Any) -> Iterator[tuple[Any, ...]]:
    """What the page shows while videos are made: status, gallery, files.

    Args:
        studio: makes them.
        key: of the page's session.
        values: of the fields, in the order of `Form`.
        progress: Gradio's, called with (step, steps) and a text.

    Raises:
        gr.Error: a mistake of the user, in words.
    """
    made: list[Result] = []

    def on_step(number: int, num_videos: int, now: Progress) -> None:
        progress((now.step, now.num_steps), desc=f"video {number + 1} of {num_videos}", unit="steps")

    try:
        session = studio.start(key)
        for result in studio.make(Form.read(*values), session, on_step):
            made.append(result)
            yield _status(made, "Working …"), *_shown(session.results)
        yield _status(made, "Finished."), *_shown(session.results)
    except CancelledError:
        yield _status(made, f"Stopped; {len(made)} videos were finished."), *_shown(session.results)
    except IdanimError as error:
        raise _told(error) from error


def _told(error: IdanimError) -> gr.Error:
    """The error as Gradio shows it: as HTML."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)


def _shown(results: Sequence[Result]) -> tuple[list[tuple[str, str]], list[str]]:
    """What gallery and list of files show, the newest first."""
    newest = results[::-1]
    files = [str(path) for result in newest for path in (result.path, result.path.with_suffix(".json"))]
    return [(str(result.path), result.caption) for result in newest], files


def _status(made: Sequence[Result], text: str) -> str:
    """Markdown: how far it is, and what should be known of photos and prompt."""
    notes = dict.fromkeys(note for result in made for note in result.notes)
    return "\n".join([f"**{text}**", "", *(f"- {html.escape(note)}" for note in notes)])


# ---------------------------------------------------------------------------------------------- fields


def _fields(studio: Studio, start: Start) -> list[Any]:
    """The fields in the order of `Form`."""
    photos = gr.File(
        _paths(start.photos),
        label=f"Photos or videos of the face (at most {studio.limits.num_files}, {studio.limits.upload_mb} MB each)",
        file_count="multiple",
        file_types=[*MORE_PICTURE_ENDINGS, *VIDEO_ENDINGS],
        elem_id="photos",
        height=150,
    )
    prompt = gr.Textbox(start.prompt, label="Prompt", lines=3, elem_id="prompt")
    fields = [photos, prompt, *_identity(studio, start), *_sampling(studio, start), *_control(studio, start)]
    return [*fields, _memory(studio)]


def _paths(files: Sequence[Path]) -> list[str] | None:
    return [str(file) for file in files] or None


def _identity(studio: Studio, start: Start) -> list[Any]:
    with gr.Accordion("Several photos, mixed identities", open=start.use != ONE, elem_id="identity"):
        use = gr.Radio(USES, value=start.use, label="The photos show", elem_id="use",
                       info="One person: the id tokens of all photos are averaged, one of somebody else is left out. "
                       "Otherwise one photo of each.")  # fmt: skip
        with gr.Row():
            weights = gr.Textbox(start.weights, label="Weights", placeholder="0.7, 0.3", elem_id="weights",
                                 info="one a photo, with the sum 1; empty = equal")  # fmt: skip
            sweep = gr.Number(start.sweep, label="Steps", precision=0, minimum=2, maximum=studio.limits.num_videos,
                              info="videos, for: " + SWEEP, elem_id="sweep")  # fmt: skip
            face_index = gr.Number(start.face_index, label="Face", precision=0, minimum=0, elem_id="face_index",
                                   placeholder="", info="by falling size from 0; empty = the largest")  # fmt: skip
    return [use, weights, sweep, face_index]


def _sampling(studio: Studio, start: Start) -> list[Any]:
    now, limits = studio.generator.settings, studio.limits
    longest = studio.generator.sampler.backbone.max_frames
    with gr.Accordion("Length, size, sampler, guidance, seed", open=False, elem_id="sampling"):
        seed_field = gr.Textbox(start.seeds, label="Seed", info="several with commas: a video each", elem_id="seeds")
        with gr.Row():
            frames = gr.Number(now.num_frames, label="Frames", precision=0, minimum=1, maximum=limits.num_frames,
                               info=f"above {longest} only in windows", elem_id="frames")  # fmt: skip
            height = gr.Number(now.height, label="Height", precision=0, maximum=limits.side_px, elem_id="height")
            width = gr.Number(now.width, label="Width", precision=0, maximum=limits.side_px, elem_id="width")
            fps = gr.Number(now.fps, label="Frames per second", minimum=1, maximum=60, elem_id="fps")
        free_noise = gr.Checkbox(now.free_noise, label="In windows (FreeNoise), for longer videos", elem_id="windows")
        with gr.Row():
            scheduler = gr.Dropdown(SCHEDULER_NAMES, value=now.scheduler, label="Sampler", elem_id="scheduler")
            steps = gr.Number(now.num_inference_steps, label="Steps", precision=0, minimum=1, maximum=limits.num_steps,
                              elem_id="steps")  # fmt: skip
            guidance = gr.Number(now.guidance_scale, label="Guidance", info="1 or less: off", elem_id="guidance")
        negative = gr.Textbox(now.negative_prompt, label="Negative prompt", elem_id="negative")
    return [seed_field, frames, height, width, fps, free_noise, scheduler, steps, guidance, negative]


def _control(studio: Studio, start: Start) -> list[Any]:
    is_on = studio.generator.run.config["control"]["model"] is not None
    with gr.Accordion("Sparse control", open=False, elem_id="control"):
        gr.Markdown("Pictures that steer chosen frames; sketches are white lines on black." if is_on else NO_CONTROL)
        images = gr.File(
            _paths(start.control_images),
            label="Pictures",
            file_count="multiple",
            file_types=list(MORE_PICTURE_ENDINGS),
            interactive=is_on,
            elem_id="control_images",
            height=120,
        )
        with gr.Row():
            frames = gr.Textbox(start.control_frames, label="Their frames", info="from 0, one a picture",
                                interactive=is_on)  # fmt: skip
            scale = gr.Number(start.control_scale, label="Strength", interactive=is_on)
            context = gr.Dropdown(CONTEXTS, value=start.control_context, label="Reads", interactive=is_on,
                                  info="official: text and id tokens; text: the text alone")  # fmt: skip
    return [images, frames, scale, context]


def _memory(studio: Studio) -> Any:
    with gr.Accordion("Memory", open=False, elem_id="memory"):
        return gr.Dropdown(
            MEMORY_PRESETS,
            value=studio.generator.memory,
            label="Preset",
            info="full: all models stay on the device; balanced and low need less. Another one than the last loads the "
            "models again.",
        )


def _examples(prompts: Sequence[str], photo: Path | None, photos: Any, prompt: Any) -> None:
    if photo is None:
        gr.Examples([[text] for text in prompts], [prompt], label="Examples", elem_id="examples")
    else:
        rows = [[[str(photo)], text] for text in prompts]
        gr.Examples(rows, [photos, prompt], label="Examples", elem_id="examples", visible_columns=[1])
