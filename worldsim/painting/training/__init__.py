"""Training of the painter.

- ``train`` (start here): learns to predict clean views. ``distil``: learns a teacher's steps.
- ``trainer``: legs, optimiser and checkpoint, which both share.
- ``lookaround`` records places in an engine, ``views`` saves them, ``store`` reads them.
- ``batches`` makes training examples.
- ``widen`` lets a painter learn further attributes.
"""
