"""Small video models of diffusers, trained on a recording and stepped by the adapters.

``python -m experiments.pretrained_training --help`` lists the parts. ``policy`` walks out and back,
``windows`` renders a memory for short clips, ``autoencoder``, ``wan_vace``, ``stable_video`` and
``depth`` train one model each, ``evaluate`` measures return trips.
"""
