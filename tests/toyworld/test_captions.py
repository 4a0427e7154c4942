import random

import torch

from idanim.toyworld.captions import MAX_TOKENS, build_tokenizer, caption, face_words
from idanim.toyworld.people import ACTIONS, COLOURS, IDENTITY_PARAMETERS, sample_attributes


def test_a_caption_says_every_attribute() -> None:
    attributes = sample_attributes(300, torch.Generator().manual_seed(0))
    for clip in range(300):
        text = caption(attributes, clip)
        assert ACTIONS[attributes.action[clip]] in text
        assert f"in front of a {COLOURS[attributes.background[clip]]} background" in text
        assert f"a {COLOURS[attributes.shirt[clip]]} shirt" in text
        assert ("no hat" in text) == (attributes.hat[clip] == 0)
        assert ("no glasses" in text) == (attributes.glasses[clip] == 0)
        assert ("bald" in text) == (attributes.hair_style[clip] == 2)


def test_parts_can_be_left_unsaid() -> None:
    attributes = sample_attributes(50, torch.Generator().manual_seed(0))
    texts = [caption(attributes, clip, random.Random(clip), drop_prob=0.5) for clip in range(50)]
    assert all(text.startswith("a person") for text in texts)
    assert len({len(text.split()) for text in texts}) > 5
    assert caption(attributes, 0, random.Random(0), drop_prob=1.0) == "a person"


def test_a_face_is_told_by_one_word_for_each_trait() -> None:
    identity = torch.linspace(0, 1, len(IDENTITY_PARAMETERS))
    texts = [face_words(identity, random.Random(seed)).split() for seed in range(300)]
    assert 0.2 < sum(not words for words in texts) / 300 < 0.4
    longest = max(texts, key=len)
    assert len(longest) == len(IDENTITY_PARAMETERS)
    assert longest[0] == "leastfacewidth"
    assert longest[-1] == "mostmoley"
    assert all(word in longest for words in texts for word in words)


def test_every_word_is_one_token_and_every_caption_fits() -> None:
    tokenizer = build_tokenizer()
    attributes = sample_attributes(500, torch.Generator().manual_seed(1))
    identity = torch.rand(500, len(IDENTITY_PARAMETERS), generator=torch.Generator().manual_seed(2))
    known = set()
    for clip in range(500):
        text = f"{caption(attributes, clip)} {face_words(identity[clip], random.Random(clip), 0.0)}".strip()
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.split()) + 2 <= MAX_TOKENS
        assert tokenizer.decode(ids[1:-1]).split() == text.split()
        known.update(ids)
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(known) > 40
