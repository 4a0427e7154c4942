"""Frozen backbones, face encoders, the face adapter and its checkpoint formats."""
