"""Texts that a spreadsheet would run as a formula when it opens a CSV file, and texts that it would not."""

RUN = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\tplain", " =1", "   \t +1", "\u00a0=1",
    "\u3000@A1",
    "\ufeff=1", "\u200b=1", "\x0b=1", "\x0c-1", "\x1f=1", "\x85=1", "\u2028=1", "\u202e=1", "\u00ad=1",
    "\uff1d1", "\uff0b1", "\uff0d1", "\uff20A1", "\u22121", " \u22121",
    "\ufe661", "\ufe621", "\ufe631", "\ufe6bA",
    '=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0",
]  # fmt: skip
"""In the order of the rule: signs, what may stand before them, their other forms, and two real attacks."""

NOT_RUN = [
    "'=1", "a=1", "a-b", "meta-llama/Llama-3.1-8B", "gpt 4", " plain", "\u2013dash", "#1", "/x", "\u00e9=1",
    "1-1",
    "a\n=1", '"=1"', "%", "\u4e2d=1", "\U0001f600=1",
]  # fmt: skip
"""These round-trip: what is written is what was stored."""
