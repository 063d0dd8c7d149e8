"""Bridges to other libraries, one module each; none of them is imported with `sparsek`.

- :mod:`sparsek.integrations.sklearn`: feature selection behind the API of scikit-learn. Needs the extras `apps` and `train`.
- :mod:`sparsek.integrations.dynamics`: sparse identification of dynamics (SINDy) with exactly k terms. Needs the extra `apps`;
  :mod:`sparsek.integrations.dynamics_table`, which is for Lightning, `train` too.
- :mod:`sparsek.integrations.transformers`: routers in the mixture-of-experts models of Hugging Face. Needs the extra `transformers`.
- :mod:`sparsek.integrations.saelens`, :mod:`sparsek.integrations.sparsify` and :mod:`sparsek.integrations.dictionary_learning`:
  sparse autoencoders in the files of these libraries, `save` and `load`; :mod:`sparsek.integrations.folder` in files of their own,
  which hold everything, and one dictionary in many files, one for each k. Need the extra `sae`.
"""
