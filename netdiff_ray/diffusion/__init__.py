"""Rasters drawn by Stable Diffusion 3 models, through diffusers; no ray here.

`settings` and `facts` load neither torch nor diffusers; every other module does.

    settings   what a user can choose, as frozen records
    facts      what an adapter says of its labels: aggregates of their windows
    base       an SD3-family model directory or hub name, in memory
    prompts    text embeddings of labels
    control    the edge pictures that condition ControlNet
    adapter    the directory that fine-tuning makes
    loop       optimiser steps that resume exactly
    train      LoRA fine-tuning
    denoise    drawing
"""
