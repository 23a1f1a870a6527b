"""From what a user asks for to new widths, a plan, and the rewritten network or checkpoint."""
