"""Captions of clips by models: attribute (one frame), action (the whole clip), unified (both merged).

Read `captioner.py` first; `model.py` is what a model has to offer, `server.py` and `local.py` are two of them.
"""
