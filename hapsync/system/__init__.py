"""The operating system: files, processes, the lists of its sockets."""
