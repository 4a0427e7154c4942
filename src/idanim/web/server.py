"""Serves the page: address, limits, and a temporary folder that goes with the program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from idanim.config import Run
from idanim.metrics.prompts import load_prompts
from idanim.toyworld.shipped import shipped
from idanim.types import IdanimError


def serve(run: Run) -> None:
    """Serve the page until ^C or SIGTERM.

    Raises:
        IdanimError: the models can't be loaded, or the port is taken; the text says what to do.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the temporary folder goes then, too
    with serving(run) as page:
        page.block_thread()


PAGES_REMEMBERED = 500
"""Pages whose settings Gradio keeps; of closed ones they go at once, see `idanim.web.closed_page`."""

NO_STATISTICS = {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}
"""Gradio's record of its last 10,000 requests, and a summary of it after each, which nobody sees without monitoring."""


@contextmanager
def serving(run: Run) -> Iterator[Any]:
    """A server of the page; when it ends its files are deleted.

    Args:
        run: of `conf/app.yaml`.

    Yields:
        Gradio's Blocks; `local_url` is its address.
    """
    with TemporaryDirectory(prefix="idanim_app_") as folder:
        # Gradio takes these from the environment, the first of them when it is imported.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        os.environ.update(NO_STATISTICS)
        from idanim.web.form import Limits
        from idanim.web.page import CSS, build_page
        from idanim.web.start import Start
        from idanim.web.studio import Studio

        app = run.config["app"]
        limits = Limits(**app["limits"])
        generation = replace(run, config={key: value for key, value in run.config.items() if key != "app"})
        start = Start.of(run.config).copied_to(Path(folder) / "start")
        studio = Studio(generation, limits, Path(folder))
        prompts = [prompt.text for prompt in load_prompts(app["examples"])][:4]
        is_toy = run.choices.get("faces") == "toy"
        page = build_page(studio, start, prompts, Path(shipped("face.png")) if is_toy else None)
        # The studio counts who waits. This bound is for requests past the page; the queue also holds short work.
        page.queue(max_size=2 * limits.queue + 10, api_open=False)
        try:
            page.launch(
                server_name=app["host"],
                server_port=app["port"] or None,
                max_file_size=limits.upload_mb * 2**20,
                state_session_capacity=PAGES_REMEMBERED,
                share=False,
                allowed_paths=[],
                prevent_thread_lock=True,
                show_error=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                css=CSS,
            )
        except OSError as error:
            raise IdanimError(f"app.port={app['port']}: {error}; take another app.port= or 0") from error
        try:
            yield page
        finally:
            page.close()
