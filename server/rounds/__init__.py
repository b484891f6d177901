"""The rounds: ask the hospitals, check their replies, combine them, keep the result, repeat."""
