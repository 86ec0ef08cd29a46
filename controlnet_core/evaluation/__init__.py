"""How well a net follows its hints, and when it begins to."""
