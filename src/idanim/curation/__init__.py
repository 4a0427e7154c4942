"""Raw video → clip shards: the dataset pipeline of the paper (§3.3).

Read `pipeline.py` first: it shows the order of the stages, one module each.
"""
