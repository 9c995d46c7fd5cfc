"""Imports a package that is installed on the host's Python."""

import glob
import os

raise SystemExit(42 if glob.glob(os.path.dirname(os.__file__) + "/site-packages/*") else 1)
