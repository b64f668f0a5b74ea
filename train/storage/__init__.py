"""Storage: JSON and JSONL files that survive a crash, and locks that name their holder.

This room owns writing records (atomic, synced), reading them (limited in size, torn lines dropped)
and locking (flock, or a lease where the file system has none). It must not know what a record means
and imports only errors. Open records.py first, then lock.py.
"""
