"""A toy world of procedural people in which identity, prompt following and motion are known exactly."""
