"""``worldsim fit``: from an environment's id to a world, an agent and a page that judges them.

The command calls the functions of other commands, one after another, and adds nothing to them:

- :mod:`~worldsim.app.fit.config`: the options.
- :mod:`~worldsim.app.fit.probe`: looks at the environment: which image, how fast.
- :mod:`~worldsim.app.fit.plan`: the options of the other commands that follow from that.
- :mod:`~worldsim.app.fit.progress_file`: what is done, so that the same command resumes.
- :mod:`~worldsim.app.fit.run`: runs the stages.
- :mod:`~worldsim.app.fit.verdict`: judges the figures by fixed limits, in words.
- :mod:`~worldsim.app.fit.page`, :mod:`~worldsim.app.fit.charts`: the page.
"""
