"""The unknowns: units, the equations between them, their one solution, and names for people."""
