"""Wind Tunnel's Hydra sweeper and launcher. Hydra finds plugins only in this namespace package."""
