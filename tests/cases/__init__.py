"""Named worlds and the rows of losses, frames, heads, metrics and closed forms that laws run over.

To add a loss, a frame, a head, a metric or a closed form: one row in the file of its kind.
test_complete.py fails without it.
"""
