"""JAX models, losses, steps, checkpoints and the registry."""
