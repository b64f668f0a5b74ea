"""Data: text to token shards on disk, and token shards to windows of ids.

This room owns sources, tokenizers, the split into training and validation documents, the prepared
folder (`<data root>/<name>-<tokenizer>-<hash>/`) and the order in which a run reads it. It must not
know models, devices, torch or run folders: it takes a DataConfig and returns numpy arrays. Open
prepare.py first, then shards.py (reading) and sampler.py (order).
"""
