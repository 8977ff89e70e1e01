"""The tasks: one file per stage, each a thin wrapper around one function of ``fuseline``.

Between tasks travel small frozen records: keys, folders and counts.
"""
