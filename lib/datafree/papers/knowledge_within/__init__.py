"""The Knowledge Within: Methods for Data-Free Model Compression (Haroush, Hubara, Hoffer, Soudry, 2020).

synthesis       section 3: images from BatchNorm statistics, algorithm 1
calibration     section 4.2: ranges of a quantised network, measured on them
distillation    section 4.2: a student that learns on them
intervals       section 4.2: the same, interval by interval, on noise
correspondence  section 5: what a network knows of a data set
"""
