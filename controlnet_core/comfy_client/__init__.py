"""Runs workflows on a ComfyUI server over its HTTP and WebSocket API; imports nothing of ComfyUI."""
