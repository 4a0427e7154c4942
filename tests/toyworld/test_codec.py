import torch
from torch.nn import functional as F

from idanim.toyworld.codec import NUM_COMPONENTS, build_codec, principal_patches, read_encoder, write_encoder
from idanim.toyworld.people import sample_identities, sample_scene
from idanim.toyworld.renderer import render


def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scene = sample_scene(sample_identities(64, generator), 1, generator)
    return render(scene, 32)[:, 0].float() / 127.5 - 1


def test_the_encoder_is_the_linear_map_that_was_written_into_it() -> None:
    frames = pictures()
    weights, bias = principal_patches(frames, whitening=0.5)
    codec = build_codec()
    write_encoder(codec, weights, bias)
    posterior = codec.encode(frames).latent_dist
    expected = F.conv2d(F.pixel_unshuffle(frames, 4), weights[:, :, None, None], bias)
    assert posterior.mean.shape == (64, NUM_COMPONENTS, 8, 8)
    torch.testing.assert_close(posterior.mean, expected, atol=5e-3, rtol=1e-3)
    assert posterior.std.max() < 0.01
    for read, written in zip(read_encoder(codec), (weights, bias), strict=True):
        torch.testing.assert_close(read, written, atol=2e-3, rtol=1e-3)


def test_latents_have_mean_zero_and_variance_one() -> None:
    frames = pictures()
    weights, bias = principal_patches(frames, whitening=1.0)
    latents = F.conv2d(F.pixel_unshuffle(frames, 4), weights[:, :, None, None], bias)
    torch.testing.assert_close(latents.var(dim=(0, 2, 3)), torch.ones(NUM_COMPONENTS), atol=0.01, rtol=0)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(NUM_COMPONENTS), atol=1e-3, rtol=0)
