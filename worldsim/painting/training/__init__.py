"""Training of the painter.

- ``train`` (start here): the loop and its settings.
- ``lookaround`` records places in an engine, ``views`` saves them, ``store`` reads them.
- ``batches`` makes training examples.
- ``widen`` lets a painter learn further attributes.
"""
