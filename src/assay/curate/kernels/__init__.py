"""Pure functions from rows to compact features, run shard by shard in any number of processes.

``VERSION`` goes into every fingerprint: raise it when a kernel's output changes.
"""

VERSION = 5
