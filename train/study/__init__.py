"""A study: its grid planned, priced, grouped into jobs, launched, and its state read back.

Open study.py first. This room starts training only as processes (`python -m train ...`) and reads
how they ended from run folders: it must not import train.training.
"""
