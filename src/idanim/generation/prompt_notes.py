"""What a model makes nothing of in a prompt, in words."""

from __future__ import annotations

from collections.abc import Sequence

from idanim.models.backbone import Backbone

SHOWN_LETTERS, SHOWN_WORDS = 200, 12


def prompt_notes(backbone: Backbone, prompts: Sequence[str]) -> list[str]:
    """What is cut off each long prompt, and the words of all of them that the model does not know."""
    notes = [_cut_note(cut) for prompt in prompts if (cut := backbone.cut_text(prompt))]
    unknown = list(dict.fromkeys(word for prompt in prompts for word in backbone.unknown_words(prompt)))
    if unknown:
        more = f" and {len(unknown) - SHOWN_WORDS} more" if len(unknown) > SHOWN_WORDS else ""
        shown = ", ".join(unknown[:SHOWN_WORDS])
        notes.append(f"words that this model was never taught, which only disturb; leave them out: {shown}{more}")
    return notes


def _cut_note(cut: str) -> str:
    shown = cut if len(cut) <= SHOWN_LETTERS else f"{cut[:SHOWN_LETTERS]} … ({len(cut.split())} words)"
    return f"the prompt is longer than the 77 tokens that the model reads; cut off: {shown}"
