"""What lies under a command: processes, terminal, memory."""
