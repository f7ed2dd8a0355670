"""Measurements, to be run by hand: they are no tests, since a time is not right or wrong."""
