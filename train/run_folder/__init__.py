"""The files of a run and of its study's manifest: the truth that every other program reads.

Open run_folder.py first. This room writes and reads records, checkpoints and costs; it must not
know how a run is trained or launched.
"""
