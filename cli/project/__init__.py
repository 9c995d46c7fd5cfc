"""The project folder: agents, roles and tools as files, and the commands that bring them to a server."""
