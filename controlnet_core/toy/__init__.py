"""The small world: shapes on a ground, drawn and found again; the small base that knows them, and how it was made."""
