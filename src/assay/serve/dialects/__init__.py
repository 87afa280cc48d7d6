"""Wire formats, one file each: what a request looks like, and what the answer."""
