"""The Redis protocol as pure functions: scan requests, encode replies, match glob patterns."""
