"""Modules that methods are built from."""
