"""The native backend: namespaces, mounts, cgroups, Landlock and seccomp, by direct system calls."""
