"""Orthogonal LoRA for EverCLIP, with a selector and a stream."""
