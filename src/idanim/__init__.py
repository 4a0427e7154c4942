"""Identity adapters for text-to-video models."""
