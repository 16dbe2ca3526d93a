"""Directories and files that survive a kill."""
