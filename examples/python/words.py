"""Answers with how many words it was asked about: a handler in Python.

sealmesh handle runs it once for each verified request; see README.md.
"""

import json
import os
import sys

text = sys.stdin.buffer.read()
if not text.strip():
    print("nothing to count", file=sys.stderr)  # for the log of the handler, not for the caller
    sys.exit(2)
try:
    words = text.decode("utf-8").split()
except UnicodeDecodeError:
    sys.exit(3)
json.dump(
    {
        "for": os.environ["MESH_SENDER"],
        "scope": os.environ["MESH_SCOPE"],
        "until": os.environ["MESH_DEADLINE"],
        "words": len(words),
    },
    sys.stdout,
)
