"""The doctor's checks and fixes."""
