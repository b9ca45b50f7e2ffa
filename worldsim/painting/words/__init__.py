"""Words: prompts, the attributes that they name, and generators of descriptions.

- ``prompt`` (start here) parses free text with the closed ``vocabulary`` and its ``lexicon``.
- ``attributes``: a table of real places that completes what a prompt leaves open.
- ``descriptions``: generators that write the next place of a journey.
"""
