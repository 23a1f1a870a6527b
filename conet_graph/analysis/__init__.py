"""What a network is: its layers, groups and frozen sizes, and why they are so."""
