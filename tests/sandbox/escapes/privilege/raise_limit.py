"""Raises a soft limit to more than a job may have."""

import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
raise SystemExit(42)
