# SPDX-License-Identifier: Apache-2.0
"""What is measured, and which question each file answers. Figures and how they came about: docs/performance.md.

Programs, each with --help:

sample_speed    How fast does it colour here, beside the original's way of sampling and what the machine can do?
parts           Where does the time of an image go, by kind of operation?
neighbours      How much slower is it while other programs are at work on its processors?
scaling         How does that time grow with the image, the batch and the network?
document        What do the records say? Writes the tables and plots of docs/performance.md.
gpu             What should a GPU that is not at hand take, and what does each kernel need of it?
gpu_times       What do the kernels take on the GPU that is here, and which way to launch a row is the fastest?
settling        How many passes does a row take by fixed point, by guess and window?
train_step      What share of the machine's product rate does a step of training reach?
loader          How soon does a training on a data set of ImageNet's size start, and how fast is it read?
album           Are photographs coloured faster together than one at a time?
large           What does a large photograph cost beyond the networks?
cluster         What does colouring on a Ray cluster cost beside one process?
chroma          In which colour space do small colours come closest to a photograph's own?
rounding        What do products in bfloat16 change in the images?
upsampling      Which value is best taken out of an upsampler's distributions?
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
record          What does a run come to? One line of JSON in results/.
tables, plots   How is a record shown?
ahead           What does Triton make of a kernel for a GPU that is not there?
"""
