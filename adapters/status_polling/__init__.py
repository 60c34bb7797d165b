"""The refresh at the upstream: sending the kick-off, asking how it stands, and what the answers mean."""
