"""What a network costs, as it is and at other widths."""
