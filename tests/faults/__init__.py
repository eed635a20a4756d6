"""Faults from outside: processes killed, or refused by the disk, at any one of their file operations."""
