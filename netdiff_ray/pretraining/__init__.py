"""How the embedded base is made.

config     what `jobs/pretrain.py` takes
nano       small bases of random weights
windows    captures to windows
restack    a window between other hosts, and over another path
random_stacks  random hosts and paths
batches    what a step learns from
losses     of the autoencoder and of distillation
stages     the training of a base's components
pretrain   the stages one after another, and the command line
"""
