"""The play page: a person walks through a generated world in the browser.

``worldsim play`` serves it. The page is a client of :mod:`worldsim.sessions`: every step, rewind,
branch and edit is one of the sessions' operations. What the page alone needs is here: ``routes``
(its files, and what of a walk can be taken away), ``exports`` (these files), ``painting`` (new
places) and ``static`` (HTML, CSS and JavaScript modules, served as they are).
"""
