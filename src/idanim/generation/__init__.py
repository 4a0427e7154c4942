"""From references and a prompt to a video."""
