"""Storage: JSON and JSONL files that survive a crash, and locks that name their holder.

This room owns how a record is written (atomically, synced), read back (limited, torn lines
dropped) and locked (flock, or a lease where the file system has none).
It must not know what a record means: runs, studies and data are above it, and it imports nothing
of ours but errors. Open records.py first; lock.py is the other half.
"""
