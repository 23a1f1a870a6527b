"""Channels whose removal changes nothing: constant ones, unheard ones, and multiples of others."""
