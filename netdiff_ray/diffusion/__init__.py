"""Rasters drawn by Stable Diffusion 3 models, through diffusers; no ray here.

`settings`, `facts` and `adapter` load neither torch nor diffusers; most others do.

    settings   what a user can choose, as frozen records
    facts      what an adapter says of its labels, and plans of flows drawn from it
    adapter    the directory that fine-tuning makes
    fetch      model files: a directory, or a hub repository at a pinned commit
    base       an SD3-family model in memory
    prompts    text embeddings of labels
    control    the edge pictures that condition ControlNet
    objective  the flow-matching loss
    loop       optimiser steps that resume exactly
    ranks      who takes part in a training: one process, or several
    share      what a rank keeps of its windows, and the training set that shares make
    train      LoRA fine-tuning
    denoise    drawing
    sheet      sample grids and bit errors during training
    nano       the construction of small bases
    stages     the losses of pretraining one
"""
