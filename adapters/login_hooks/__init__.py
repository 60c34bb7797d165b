"""What login services hang in: hooks that drive login and logout, and the endpoints for browsers."""
