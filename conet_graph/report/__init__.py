"""Pictures and pages of analyses and runs."""
