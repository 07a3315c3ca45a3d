"""Train and draw rasters with Stable Diffusion 3 models, through diffusers; without Ray.

`adapter` and `fetch` load neither torch nor diffusers.

    adapter           the directory that fine-tuning makes
    fetch             model files: a directory, or a hub repository at a pinned commit
    base              an SD3-family model in memory
    lora              LoRA weights in a base
    prompts           text embeddings of labels
    control           the pictures of plans that condition ControlNet
    token_pruning     tokens of headers and options that a flow lacks
    objective         the flow-matching loss
    optimization      optimiser steps that resume exactly
    process_group     the processes that train together
    training_set      latents, prompts and plans of their windows
    train             LoRA fine-tuning
    plan_constraints  what plans demand of drawn rasters
    denoise           drawing
    sample_grid       rasters and bit errors during training
"""
