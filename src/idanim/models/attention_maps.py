"""What the queries of each layer attend to among the id tokens: maps over the cells of every frame.

Letters: V videos · F frames · B = V·F rows · S queries (latent cells, h · w) · Q id tokens · E hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.types import IdanimError


def id_token_attention(query: Tensor, face_key: Tensor, heads: int) -> Tensor:
    """The weights of Attn(Q, K_i, V_i) of Eq. 1, averaged over the heads; for each query they sum to 1.

    Args:
        query: [B, S, E].
        face_key: [V or B, Q, E].
        heads: number of heads, divides E.

    Returns:
        [B, S, Q] float32 in [0, 1].
    """
    rows, cells, _ = query.shape
    query = query.reshape(len(face_key), -1, query.shape[-1])
    queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (query, face_key))
    weights = torch.softmax(queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5, dim=-1)
    return weights.mean(dim=1).reshape(rows, cells, -1)


def layer_size(height: int, width: int, num_cells: int) -> tuple[int, int]:
    """Height and width of a layer that has so many cells: the video's, halved (rounded up) as often as it takes.

    Args:
        height: of the video, in pixels; of the latents will do, too.
        width: of the same.
        num_cells: h · w.

    Raises:
        IdanimError: no layer of such a video has as many.
    """
    h, w = height, width
    while h * w > num_cells and (h, w) != (1, 1):
        h, w = -(-h // 2), -(-w // 2)
    if h * w != num_cells:
        raise IdanimError(f"a layer of {num_cells} cells does not fit a video of {height} × {width}")
    return h, w


class AttentionRecorder:
    """Averages the maps of a video over its denoising steps.

    Args:
        num_frames: of the video. Of a batch the last so many rows count: where guidance puts the prompt.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, layer: str, query: Tensor, face_key: Tensor, heads: int) -> None:
        """Take in what a layer attends to at one step; see `id_token_attention`."""
        weights = id_token_attention(query, face_key, heads)[-self.num_frames :].cpu()
        self._sums[layer] = self._sums[layer] + weights if layer in self._sums else weights
        self._counts[layer] = self._counts.get(layer, 0) + 1

    def maps(self, height: int, width: int) -> dict[str, Tensor]:
        """The maps by layer, in the order of work.

        Args:
            height: of the video, in pixels.
            width: of the video, in pixels.

        Returns:
            Name → [F, Q, h, w] float32; over Q they sum to 1.

        Raises:
            IdanimError: nothing was recorded, or a layer does not fit the size.
        """
        if not self._sums:
            raise IdanimError("no attention to id tokens was recorded: is the adapter attached?")
        result = {}
        for name, total in self._sums.items():
            size = layer_size(height, width, total.shape[1])
            result[name] = (total / self._counts[name]).transpose(1, 2).unflatten(-1, size)
        return result


@contextmanager
def recorded_attention(adapter: FaceAdapter, num_frames: int) -> Iterator[AttentionRecorder]:
    """Record what every layer attends to among the id tokens while videos are sampled, one at a time.

    Args:
        adapter: attached to a backbone.
        num_frames: of the video.
    """
    recorder = AttentionRecorder(num_frames)
    layers = adapter.face_attentions()
    for name, layer in layers.items():
        layer.observer = partial(recorder.add, name)
    try:
        yield recorder
    finally:
        for layer in layers.values():
            layer.observer = None
