"""Could leave its memory in a core file."""

import resource

raise SystemExit(42 if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 else 1)
