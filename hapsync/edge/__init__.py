"""Everything that touches the world: sockets, files, processes, clocks. Nothing here decides."""
