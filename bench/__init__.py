# SPDX-License-Identifier: Apache-2.0
"""What is measured, and which question each file answers. Figures and how they came about: docs/notes/performance.md.

Programs, each with --help:

sample_speed    How fast does it colour here, beside the original's way of sampling and what the machine can do?
train_step      What share of the machine's product rate does a step of training reach?
gpu             What does an image ask of a GPU, what does each kernel need of it, and what do they take where one is?
film            Do the frames of a film keep their colours, how fast, in how much memory?
faded           How near does a faded print come to its true colours?
suite           Which operation or training step became faster or slower, and what would torch's own take? `make bench`.

What they are made of:

setting         What is measured, with which weights and images, by which implementation?
recomputing     What is the original's way? Its sampling loop, in plain torch on our networks.
check           Do both ways draw the same image? Asked before anything is timed.
original        How long does the original program itself take for the same pixels? `sample_speed.py --original`.
original_draw   How is it called? What runs in its environment.
counting        How many multiply-adds are there to do?
timing          How long did each stage take, in how much memory?
machine         What is this machine, and how fast does torch multiply and read on it?
record          What does a run come to? Tables, and one line of JSON in results/.
gpu_work        Which kernels at which shapes, how many launches, and how long should they take?
gpu_measured    How long do they take on a GPU that is there, and are they right?
emulate         Which kernels would a GPU be given? A call on tensors without memory.
ahead           What does Triton make of a kernel for a GPU that is not there?
"""
