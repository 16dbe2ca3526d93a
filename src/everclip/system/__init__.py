"""What lies under a command: processes, terminal, memory, and a library that would load too much."""
