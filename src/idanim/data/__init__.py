"""Clip shards, reference strategies, latents and the LightningDataModule."""
