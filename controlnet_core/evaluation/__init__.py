"""How well drawn pictures follow their hints and captions."""
