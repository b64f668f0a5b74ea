"""From a table of runs to compute-optimal exponents. Reads results, never trains: no torch."""
