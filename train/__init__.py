"""Wind Tunnel's training side: everything that spends FLOPs."""

__version__ = "0.4.0"
