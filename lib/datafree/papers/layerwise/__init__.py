"""Layer-Wise Data-Free CNN Compression (Horton, Jin, Farhadi, Rastegari, 2020).

equalization      section III-A: fusion and equalisation, eqs. 1 to 9
generated_inputs  section III-B: inputs of a layer without data, eqs. 10 to 12
quantization      section III-C: ranges by search, figure 4; the quantiser itself, eqs. 13 and 14, is core/quantizer
pruning           section III-D: soft thresholds, eqs. 15 to 17
comparison        section IV-A: the rivals, all on one quantiser
"""
