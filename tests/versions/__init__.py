"""What HAProxys of different versions do for hapsync; a target of its own runs it with each."""
