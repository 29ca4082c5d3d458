"""Who may do what: pure decisions over facts that the kernel gave and instants that the caller read.

Nothing here opens a file, reads a clock or draws randomness: facts, `Now`, a loader of time zones and a source of
random bytes come in as arguments, so every decision can be replayed and every test owns its time. `decisions.md` says
what the rules mean and why.
"""
