"""Nets and bases as ComfyUI holds them."""
