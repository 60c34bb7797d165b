"""Workers run the steps that flows hand over, off the login path."""
