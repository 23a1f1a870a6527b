"""The proof: what a rewritten network must equal, and whether it does."""
