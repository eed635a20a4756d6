"""Basics for every room: errors, files, ranks, logging, machine."""
