"""FRanDI: Data-Free Neural Network Compression via Feature Regression and Deep Inversion
(Sobolev, Ermilov, Kozyrskiy, Phan).

    synthesis      section 3.1: one batch of images, eq. 1
    factorization  eq. 2 and appendix A.2: a convolution as two thin ones
    regression     section 3.2: features regressed, eqs. 3 to 5
    selection      section 3.3: ranks chosen without labels, eqs. 6 and 7
    compressible   convolutions with what each may keep, and what a choice costs
    candidates     many sets of ranks on the same images, with what they share computed once
    magnitude      masks in place of ranks (table 4)
    compression    all of it in a row
    quantization   rounded networks recovered the same way (tables 3 and 9)
"""
