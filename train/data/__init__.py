"""Data: text becomes token shards on disk, and token shards become windows of ids.

This room owns the sources, the tokenizers, the split into training and validation documents, the
prepared folder (`<data root>/<name>-<tokenizer>-<hash>/`) and the order in which a run reads it.
It must not know models, devices, torch or run folders: what enters is a DataConfig, what leaves
are numpy arrays. Open prepare.py first, then shards.py for reading and sampler.py for the order.
"""
