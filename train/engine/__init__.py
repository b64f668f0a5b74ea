"""Engine: the training step of R replicas on one device, and all that makes it fast.

This room owns the step, the optimizer, batches on the device, the validation loss and the choices
of a device: dtype, attention kernel, compilation, CUDA graphs, micro-batch. It must not know run
folders, checkpoints on disk, trackers, or what the training loop does between steps.
Open engine.py first: Engine.advance takes steps, Engine._step is the step.
"""
