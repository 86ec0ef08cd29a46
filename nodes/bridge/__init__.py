"""Where ComfyUI's own modules are touched, and nowhere else."""
