"""Scenes: the traffic of a network's hosts over a time, planned from session statistics.

scene      what a SCENE.toml says, checked
read       a SCENE.toml to a scene
tables     a scene and an adapter's statistics to tables that flows are drawn from
sessions   the tables to the flows of a group of hosts: who, when, which service
planner    those flows to plans, addresses, ports and names
"""
