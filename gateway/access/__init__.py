"""Who may see what, and the audit log of what was seen across organisations."""
