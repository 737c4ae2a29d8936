"""The tests. They reach no hub but one they start; the libraries read this at import."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
