"""The demo: the whole system at work on this machine. Run it with `make demo`."""
