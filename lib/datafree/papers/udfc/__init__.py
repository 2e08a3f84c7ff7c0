"""Unified Data-Free Compression: Pruning and Quantization without Fine-Tuning (Bai, Chen, Shen, Qian, Liu, 2023).

reconstruction      sections 3.2, 3.3 and 4 as we derive them: assumption, loss, closed form
compression         the whole network: damage here, repair there
moment_matching     ours: channels rebuilt from their moments
rectified_gaussian  ours: moments of what relu lets through
"""
