"""hapsync under everything that may happen, for as long as one likes: `python -m tests.soak --minutes N`.

Changes, growths, restarts and reloads go on under load, and what the agent holds (memory, threads, descriptors) is
looked at all the while. It ends with 1 when that grows, or a request was lost that no fault forced.
"""
