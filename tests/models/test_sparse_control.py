from __future__ import annotations

import torch
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetConditioningEmbedding

from idanim.models.sparse_control import ConditionEmbedding


@torch.no_grad()
def test_the_embedding_is_that_of_diffusers_with_less_rounding() -> None:
    torch.manual_seed(0)
    plain = SparseControlNetConditioningEmbedding(32, conditioning_channels=4, block_out_channels=(8, 8, 16, 16))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours, pictures = ConditionEmbedding(plain), torch.rand(3, 4, 64, 80)
    pictures[1] = 0
    assert ours.state_dict().keys() == plain.state_dict().keys()
    result = ours(pictures)
    assert result.dtype == torch.float32
    exact = plain.double()(pictures.double())
    assert torch.equal(result, exact.float())
    flat = result[1, :, 3:-3, 3:-3]  # what the borders don't reach
    assert torch.equal(flat, flat[:, :1, :1].expand_as(flat))
