"""The classes that files and commands name: policies, planners, scenes, dynamics and others.

Scene memories are in :mod:`worldsim.memory.registry`, since each has a config class beside it. Real
twins are looked up in Gymnasium's own registry: see :mod:`worldsim.world.twin`.

Register a class of your own in the program that loads the file::

    from worldsim.runtime.registries import POLICIES
    POLICIES.register("mine", MyPolicy)
"""

from __future__ import annotations

from worldsim.runtime.registry import Registry

POLICIES = Registry(
    "policy",
    ("reset", "act"),
    {
        "persistent": "worldsim.agents.persistent:PersistentPolicy",
        "persistent-v1": "worldsim.agents.persistent:PersistentPolicy",
        "random": "worldsim.agents.random:RandomPolicy",
        "sticky": "worldsim.agents.sticky:StickyPolicy",
        "road-follower": "worldsim.agents.road_follower:RoadFollower",
        "actor-critic": "worldsim.agents.actor_critic_policy:ActorCriticPolicy",
    },
)
"""Policies that are constructed with an action space, and settings that are JSON values. Their
names come before folders."""

PLANNERS = Registry(
    "planner",
    ("reset", "act"),
    {
        "explorer": "worldsim.agents.explorer:FrontierExplorer",
        "novelty": "worldsim.agents.novelty:NoveltyExplorer",
    },
)
"""Policies that are constructed with what they imagine in: a dream or a belief
(:class:`worldsim.planning.objectives.Dreaming`). Sessions can hand their controls to them."""

SCENES = Registry(
    "scenes",
    ("start",),
    {
        "recorded": "worldsim.scenes.recorded:RecordedScenes",
        "captures": "worldsim.scenes.capture:CaptureScenes",
        "episodes": "worldsim.scenes.episodes:EpisodeScenes",
        "picture": "worldsim.scenes.picture:PictureScene",
    },
)
"""Scenes that are constructed with a path, for ``scenes="NAME:PATH"`` of an environment."""

DYNAMICS = Registry(
    "dynamics",
    ("build", "empty", "predict", "observe"),
    {
        "diffusion": "worldsim.diffusion.dynamics:DiffusionDynamics",
        "pretrained": "worldsim.pretrained.loading:NamedDynamics",
    },
)
"""Dynamics that ``world.json`` names. ``build(config, load)`` makes one of a world's folder: config
is the world's :class:`worldsim.world.config.WorldConfig`, and ``load(cls)`` reads the module of the
folder ``dynamics``, for dynamics that have weights."""

PAINTERS = Registry(
    "painter",
    ("paint",),
    {"network": "worldsim.painting.painter:NetworkPainter"},
)
"""Painters that ``painter.json`` names. ``from_pretrained(folder)`` loads one."""

VIDEO_MODELS = Registry(
    "video model",
    ("accepts", "check_size", "generate", "identify"),
    {
        "wan-vace": "worldsim.pretrained.wan_vace:WanVACE",
        "ltx-condition": "worldsim.pretrained.ltx_condition:LTXCondition",
        "anyflow-far": "worldsim.pretrained.anyflow_far:AnyFlowFAR",
        "skyreels-forcing": "worldsim.pretrained.skyreels_forcing:SkyReelsForcing",
        "stable-video": "worldsim.pretrained.stable_video:StableVideo",
        "sana-wm": "worldsim.pretrained.sana_wm:SanaWM",
    },
)
"""Adapters of diffusers' video pipelines, constructed with a pipeline, a
:class:`worldsim.pretrained.adapter.ClipConfig` and further arguments of its call. The first one
that ``accepts`` a pipeline is used."""
