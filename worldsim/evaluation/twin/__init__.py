"""The protocol ``twin`` of ``worldsim evaluate``: what a dream keeps, beside its real twin.

``trajectories`` records six scripted ways out and back, ``gate`` says which pixels the camera
really looked away from, ``kept`` dreams the ways and scores them, ``drift``, ``actions``,
``outcomes`` and ``ranks`` measure long dreams, single actions, random futures and policies, and
``protocol`` joins them.
"""
