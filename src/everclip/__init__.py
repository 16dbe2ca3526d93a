"""EverCLIP: teach a CLIP model task after task, without forgetting and without losing zero-shot."""

__version__ = "0.1.0"
