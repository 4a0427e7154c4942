"""An identity loss on the predicted clean video; goes beyond the paper, whose loss is Eq. 3 alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idanim.models.backbone import Backbone, Diffused
from idanim.models.recogniser import FaceRecogniser


class IdentityLoss(nn.Module):
    """How far the face in the predicted clean frames is from the true one, by a face recogniser.

    L = weight · mean over frames with a face of s(t) · (1 - cos(E(x̂_0), E(x_0))), s(t) the share of signal in x_t:
    what is predicted from noise is a blurred mean of many faces, of which a recogniser says nothing. A face is a small
    part of a picture, to which the denoising loss gives little weight.

    The network that scores generated videos must be another one than this.

    Args:
        recogniser: frozen.
        weight: of the loss, ≥ 0.
        max_time: later times of the diffusion, in [0, 1], don't count; 1 = all count.
        num_frames: frames of each clip that are decoded, drawn at random.
    """

    def __init__(
        self, recogniser: FaceRecogniser, weight: float = 0.1, max_time: float = 1.0, num_frames: int = 4
    ) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.weight = weight
        self.max_time = max_time
        self.num_frames = num_frames

    def forward(
        self,
        backbone: Backbone,
        diffused: Diffused,
        prediction: Tensor,
        latents: Tensor,
        landmarks: Tensor,
        time: Tensor,
        frame_order: Tensor,
    ) -> Tensor:
        """Compare the faces of the chosen frames.

        Args:
            backbone: decodes latents.
            diffused: what the backbone saw.
            prediction: what it answered, [B, C, F, h, w].
            latents: the true clean latents, [B, C, F, h, w].
            landmarks: [B, F, 5, 2] pixels, NaN where there is no face.
            time: [B] in [0, 1).
            frame_order: [B, F] frames in random order.

        Returns:
            Scalar ≥ 0; 0 where no chosen frame has a face.
        """
        frames = frame_order[:, : self.num_frames]
        clip = torch.arange(len(frames), device=frames.device)[:, None]
        places = landmarks[clip, frames]
        counts = places.isfinite().all(-1).all(-1) & (time <= self.max_time)[:, None]
        if not counts.any():
            return prediction.sum() * 0.0

        clean = backbone.clean(diffused, prediction)
        found = self._embed(backbone, clean.transpose(1, 2)[clip, frames], places, counts)
        with torch.no_grad():
            true = self._embed(backbone, latents.transpose(1, 2)[clip, frames], places, counts)
        share = diffused.signal_share[:, None].expand_as(counts)[counts].float()
        return self.weight * (share * (1 - (found * true).sum(1))).mean()

    def _embed(self, backbone: Backbone, frames: Tensor, landmarks: Tensor, counts: Tensor) -> Tensor:
        """Unit vectors of the frames [B, n, C, h, w] that count, one row for each."""
        chosen = frames[counts][:, :, None]  # as clips of one frame
        return self.recogniser.embed_at(backbone.decode_video(chosen)[:, 0], landmarks[counts])
