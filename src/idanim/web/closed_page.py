"""What Gradio would keep of a page after it was closed."""

from __future__ import annotations

import gradio as gr


async def forget(page: gr.Blocks, key: str) -> None:
    """Drop a closed page's waiting requests and the settings of its fields, some 100 kB.

    Gradio keeps the settings of the last `state_session_capacity` pages, in case that one comes back. Ours would find
    nothing then, as its files and results are gone; it begins anew. What stays is a queue of messages, 2 kB, of the
    last 2,000 pages, since a connection that ends a little later still looks for its own.

    Args:
        page: the server's.
        key: of the closed page's session.
    """
    queue = page._queue
    await queue.clean_events(session_hash=key)
    queue.pending_event_ids_session.pop(key, None)
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(key, None)
        holder.time_last_used.pop(key, None)
