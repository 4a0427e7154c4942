"""What Gradio would keep of a page after it was closed."""

from __future__ import annotations

import gradio as gr


async def forget(page: gr.Blocks, key: str) -> None:
    """Drop a closed page's waiting requests and the settings of its fields, some 100 kB.

    Gradio keeps the settings of the last `state_session_capacity` pages, in case that one comes back; ours has none
    that would be missed, as its files and results are gone by then. A page that does come back begins anew.

    Args:
        page: the server's.
        key: of the closed page's session.
    """
    await page._queue.clean_events(session_hash=key)
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(key, None)
        holder.time_last_used.pop(key, None)
