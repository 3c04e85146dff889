"""Benchmarks: data sets as published, the answers of a model about them, and what these are worth.

`benchmark` says what a data set is and `benchmarks` reads each; `run` asks the model, with face crops from `cache`;
`metrics` compares answers with the truth, and `report` writes down what came of it.
"""
