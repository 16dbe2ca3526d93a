"""Pure functions on tensors and matrices; they know nothing of ours."""
