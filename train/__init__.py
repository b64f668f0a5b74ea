"""Wind Tunnel's training side: everything that spends FLOPs."""

__version__ = "0.5.0"
