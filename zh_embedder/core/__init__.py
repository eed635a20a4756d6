"""What every room builds on: errors, files, ranks, logging, machine."""
