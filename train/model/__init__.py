"""Model: the transformer as a function from weights and tokens to losses.

This room owns the forward pass, its kernels, and the names, layout and initial values of weights.
It must not know optimizers, data, devices or runs: a shape and a dtype come in, losses go out.
Open transformer.py first, then parameters.py.
"""
