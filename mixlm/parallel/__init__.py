"""Device meshes, logical axes, and runs of several processes."""
