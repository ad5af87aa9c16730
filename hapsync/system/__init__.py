"""The operating system: files, processes, and the kernel's lists of sockets."""
