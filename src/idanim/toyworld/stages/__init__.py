"""How the shipped weights are made: one file a stage, each resumable, each printing its measured figure."""
