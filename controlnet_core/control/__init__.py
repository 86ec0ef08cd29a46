"""How nets act while sampling: strength, windows, sides, masks and stacks."""
