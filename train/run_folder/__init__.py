"""Run folders and the manifest of a study: the files that every other program reads.

This room owns records, checkpoints, costs and provenance on disk. It must not know how a run is
trained or launched. Open run_folder.py first, then checkpoint.py.
"""
