"""Histories of what was asked of a store, and the check that some single order of it all explains them."""
