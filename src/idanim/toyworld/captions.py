"""What captions say of a clip, and a tokenizer in which each of their words is one token."""

from __future__ import annotations

import random
from itertools import pairwise

from torch import Tensor
from transformers import CLIPTokenizer

from idanim.toyworld.people import ACTIONS, COLOURS, HAIR_COLOURS, HAIR_STYLES, IDENTITY_PARAMETERS, Attributes

MAX_TOKENS = 56
START, END = "<|startoftext|>", "<|endoftext|>"
PLAIN_WORDS = (
    "a", "person", "with", "hair", "wearing", "hat", "no", "glasses", "and", "shirt", "in", "front", "of",
    "background", "bald", "the", "is", "man", "woman", "video", "face",
)  # fmt: skip
TRAITS = tuple(name.replace("_", "") for name in IDENTITY_PARAMETERS)
DEGREES = ("least", "less", "middle", "more", "most")


def caption(attributes: Attributes, clip: int, rng: random.Random | None = None, drop_prob: float = 0.0) -> str:
    """Describe one clip in a sentence.

    Args:
        attributes: fields [P] int64.
        clip: index into them.
        rng: decides what is left unsaid; needed when `drop_prob` is above 0.
        drop_prob: probability with which each of hair, hat, glasses, shirt, action and background is left out.
    """

    def said() -> bool:
        return rng is None or rng.random() >= drop_prob

    value = Attributes(*(int(column[clip]) for column in attributes))  # type: ignore[arg-type]
    style = HAIR_STYLES[value.hair_style]
    words = ["a person"]
    if said():
        words.append("bald" if style == "bald" else f"with {style} {HAIR_COLOURS[value.hair_colour]} hair")
    worn = []
    if said():
        worn.append(f"a {COLOURS[value.hat - 1]} hat" if value.hat else "no hat")
    if said():
        worn.append("glasses" if value.glasses else "no glasses")
    if said():
        worn.append(f"a {COLOURS[value.shirt]} shirt")
    if worn:
        words.append("wearing " + " and ".join(worn))
    if said():
        words.append(ACTIONS[value.action])
    if said():
        words.append(f"in front of a {COLOURS[value.background]} background")
    return " ".join(words)


def face_words(identity: Tensor, rng: random.Random, silent_prob: float = 0.3) -> str:
    """Describe a face in words such as "mosteyesize", one for each trait, some left unsaid.

    The captions that public text-to-picture models learned from name and describe people, so these models can draw
    a face that they are told of. The toy's picture model learns the same from these words. No caption of a clip
    has them: what a person looks like must come from the reference.

    Args:
        identity: [29] in [0, 1].
        rng: decides what is left unsaid.
        silent_prob: probability of saying nothing.

    Returns:
        At most 29 words, "" where nothing is said.
    """
    if rng.random() < silent_prob:
        return ""
    said_prob = 1.0 if rng.random() < 0.6 else rng.random()
    return " ".join(
        DEGREES[min(int(value * len(DEGREES)), len(DEGREES) - 1)] + trait
        for trait, value in zip(TRAITS, identity.tolist(), strict=True)
        if rng.random() < said_prob
    )


def looks(attributes: Attributes, clip: int) -> str:
    """Describe one clip without its action: the attribute caption of the paper."""
    action = ACTIONS[int(attributes.action[clip])]
    return caption(attributes, clip).replace(f" {action}", "", 1)


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Make the byte-pair vocabulary and merges in which every word of the captions is one token.

    Words are added one after the other. A merge is only used where no earlier one applies, so the merges of a
    word never break those before it.
    """
    words = [*PLAIN_WORDS, *HAIR_STYLES, *HAIR_COLOURS, *COLOURS, *(w for action in ACTIONS for w in action.split())]
    words += [degree + trait for trait in TRAITS for degree in DEGREES]
    merges: list[tuple[str, str]] = []
    letters = sorted({letter for word in words for letter in word})
    tokens = dict.fromkeys((*letters, *(letter + "</w>" for letter in letters)))
    for word in words:
        pieces = _apply([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens[pieces[0]] = None
    ordered = [*tokens, START, END]
    return {token: index for index, token in enumerate(ordered)}, merges


def _apply(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Merge neighbours, lowest merge first, until none applies."""
    rank = {pair: index for index, pair in enumerate(merges)}
    while len(pieces) > 1:
        pairs = [(rank.get(pair, len(rank)), index) for index, pair in enumerate(pairwise(pieces))]
        best, index = min(pairs)
        if best == len(rank):
            break
        pieces = [*pieces[:index], pieces[index] + pieces[index + 1], *pieces[index + 2 :]]
    return pieces


def build_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer, padded to MAX_TOKENS."""
    tokens, merges = vocabulary()
    return CLIPTokenizer(
        vocab=tokens, merges=merges,  # type: ignore[arg-type]  # pairs are what its backend takes
        bos_token=START, eos_token=END, unk_token=END, pad_token=END,
        model_max_length=MAX_TOKENS,
    )  # fmt: skip
