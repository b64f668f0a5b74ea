"""Text to token shards, and token shards to windows.

`prepare.prepare` builds the folder once, `shards.open_dataset` verifies and opens it, and
`sampler.window_starts` says which windows a step reads.
"""
