"""Face detection, alignment and embedding behind one interface."""
