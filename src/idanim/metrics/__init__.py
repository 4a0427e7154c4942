"""How well generated videos keep a person, and how they move; pure functions."""
