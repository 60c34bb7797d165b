"""The command line `phr-refresh`. Needs the extra `cli`."""
