"""Parts of the benchmarks: the figures, the timing, the steps that are compared."""
