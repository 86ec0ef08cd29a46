"""ComfyUI itself: its version, folders, types and messages."""
