"""The console: a page for people, served as files that were built beforehand (gateway/console/ui)."""
